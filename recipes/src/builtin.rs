//! The recipes that come with uprof.

/// A recipe inside the binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Builtin {
    /// Its name: `uprof recipe NAME`.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

impl Builtin {
    /// Its text under the name that messages use: `builtin:NAME`.
    pub fn source(&self) -> crate::Source {
        crate::Source::new(format!("builtin:{}", self.name), self.text)
    }
}

/// What recipes may include, by name.
pub fn fragments() -> &'static [Builtin] {
    &[Builtin {
        name: "tcp-sockets",
        text: include_str!("../builtin/include/tcp-sockets.toml"),
    }]
}

/// All of them, by name.
pub fn builtin() -> &'static [Builtin] {
    &[
        Builtin {
            name: "accept",
            text: include_str!("../builtin/accept.toml"),
        },
        Builtin {
            name: "exec",
            text: include_str!("../builtin/exec.toml"),
        },
        Builtin {
            name: "getaddrinfo",
            text: include_str!("../builtin/getaddrinfo.toml"),
        },
        Builtin {
            name: "icmp-echo",
            text: include_str!("../builtin/icmp-echo.toml"),
        },
        Builtin {
            name: "malloc",
            text: include_str!("../builtin/malloc.toml"),
        },
        Builtin {
            name: "mysql-close",
            text: include_str!("../builtin/mysql-close.toml"),
        },
        Builtin {
            name: "mysql-queries",
            text: include_str!("../builtin/mysql-queries.toml"),
        },
        Builtin {
            name: "nginx-close",
            text: include_str!("../builtin/nginx-close.toml"),
        },
        Builtin {
            name: "nginx-requests",
            text: include_str!("../builtin/nginx-requests.toml"),
        },
        Builtin {
            name: "ntyco-coroutines",
            text: include_str!("../builtin/ntyco-coroutines.toml"),
        },
        Builtin {
            name: "openssl-io",
            text: include_str!("../builtin/openssl-io.toml"),
        },
        Builtin {
            name: "postgres-queries",
            text: include_str!("../builtin/postgres-queries.toml"),
        },
        Builtin {
            name: "pthread-mutex",
            text: include_str!("../builtin/pthread-mutex.toml"),
        },
        Builtin {
            name: "python-functions",
            text: include_str!("../builtin/python-functions.toml"),
        },
        Builtin {
            name: "redis-close",
            text: include_str!("../builtin/redis-close.toml"),
        },
        Builtin {
            name: "redis-commands",
            text: include_str!("../builtin/redis-commands.toml"),
        },
        Builtin {
            name: "slow-close",
            text: include_str!("../builtin/slow-close.toml"),
        },
        Builtin {
            name: "tcp-accept",
            text: include_str!("../builtin/tcp-accept.toml"),
        },
        Builtin {
            name: "tcp-close",
            text: include_str!("../builtin/tcp-close.toml"),
        },
        Builtin {
            name: "tcp-connect",
            text: include_str!("../builtin/tcp-connect.toml"),
        },
        Builtin {
            name: "tcp-drop",
            text: include_str!("../builtin/tcp-drop.toml"),
        },
        Builtin {
            name: "tcp-life",
            text: include_str!("../builtin/tcp-life.toml"),
        },
        Builtin {
            name: "tcp-reset",
            text: include_str!("../builtin/tcp-reset.toml"),
        },
        Builtin {
            name: "tcp-retransmit",
            text: include_str!("../builtin/tcp-retransmit.toml"),
        },
        Builtin {
            name: "tcp-send",
            text: include_str!("../builtin/tcp-send.toml"),
        },
        Builtin {
            name: "tcp-states",
            text: include_str!("../builtin/tcp-states.toml"),
        },
        Builtin {
            name: "ucontext-coroutines",
            text: include_str!("../builtin/ucontext-coroutines.toml"),
        },
    ]
}

/// The one of that name.
pub fn find(name: &str) -> Option<&'static Builtin> {
    builtin().iter().find(|b| b.name == name)
}
