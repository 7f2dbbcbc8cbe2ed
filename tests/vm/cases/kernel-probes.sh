# build: sockets sockets.c
# Probes on the kernel's own events, against what a program that talks to itself by TCP knows: tracepoints, raw
# tracepoints, functions, system calls; arguments and members of its structures by the kernel's own types.
. /vm/lib.sh

# with ARGUMENTS-OF-SOCKETS... -- ARGUMENTS-OF-UPROF...: runs both; uprof for that process alone, unless $everyone.
with() {
    program=
    while [ "$1" != -- ]; do
        program="$program $1"
        shift
    done
    shift
    target sockets $program
    [ -n "$everyone" ] || set -- "$@" --pid $target
    uprof_start "$@"
    go
    uprof_stop
    end_target
}

# What comes in is looked at by whoever runs then.
everyone=yes
with --connections 7 -- count tracepoint:sock:inet_sock_set_state --where 'oldstate == 2 && newstate == 1 && dport == 7001'
equal "connections by a tracepoint" "$(probe aggregated)" 7
with --connections 7 -- count rawtracepoint:inet_sock_set_state --where '(u32)arg1 == 2 && (u32)arg2 == 1'
equal "connections by a raw tracepoint" "$(probe aggregated)" 7

everyone=
with --connections 9 --send 1000 --reply 50 -- latency kernel:tcp_sendmsg
grep -q 'fentry' said || fail "functions are not probed by fentry: $(grep tcp_sendmsg said)"
equal "sends by a function" "$(probe aggregated)" 18
with --connections 9 --send 1000 -- trace kernel:tcp_sendmsg --capture size=size --capture result=retval
equal "sizes of sends" "$(events size | sort | uniq -c | tr -d ' ')" "91000"
equal "results of sends" "$(events result | sort -u)" 1000

with --opens 12 -- trace syscall:openat --capture 'path=after(str(filename))' --capture 'result=errno(retval)'
events path | grep '^/no/such/file-' > paths
seq 0 11 | sed 's,^,/no/such/file-,' | cmp - paths || fail "the paths are not those that were opened: $(cat paths)"
equal "results of openat" "$(events result | sort -u)" ENOENT
with --opens 12 -- latency syscall:openat
equal "opens" "$(probe aggregated)" 12

# The first of both is closed before any FIN. A connection's SYN counts as a byte that was acknowledged.
with --send 1 --reply 30 -- trace kernel:tcp_close \
    --capture 'acked=((struct tcp_sock *)sk)->bytes_acked' --capture 'port=sk->__sk_common.skc_num'
client="\"port\":$(truth client_port)[,}]"
equal "bytes acknowledged to the client" "$(events acked "$client")" "$(truth acked)"
equal "bytes acknowledged to the server" "$(events acked '"port":7001[,}]')" "$(truth peer_acked)"
equal "bytes acknowledged" "$(truth acked) $(truth peer_acked)" "2 30"
pass
