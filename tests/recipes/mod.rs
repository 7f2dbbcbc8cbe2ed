//! The built-in recipes against the real thing, each compared with what the program itself knows.

mod closes;
mod closing_client;
mod closing_server;
mod exec;
mod getaddrinfo;
mod icmp_echo;
mod mysql_close;
mod network;
mod nginx_close;
mod nginx_close_verdicts;
mod nginx_requests;
mod ntyco_coroutines;
mod openssl_io;
mod postgres_queries;
mod pthread_mutex;
mod python_functions;
mod redis_close;
mod redis_commands;
mod slow_close;
mod tcp;
mod tcp_close;
mod tcp_drop;
mod tcp_reset;
mod tcp_retransmit;
mod tcp_send;
mod ucontext_coroutines;
