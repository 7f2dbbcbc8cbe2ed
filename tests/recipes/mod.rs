//! The built-in recipes against the real thing, each compared with what the program itself knows.

mod exec;
mod getaddrinfo;
mod nginx_close;
mod nginx_requests;
mod ntyco_coroutines;
mod openssl_io;
mod postgres_queries;
mod pthread_mutex;
mod python_functions;
mod redis_commands;
mod tcp;
mod ucontext_coroutines;
