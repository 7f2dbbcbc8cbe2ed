//! The built-in recipes against the real thing, each compared with what the program itself knows.

mod nginx_close;
mod nginx_requests;
mod ntyco_coroutines;
mod postgres_queries;
mod ucontext_coroutines;
