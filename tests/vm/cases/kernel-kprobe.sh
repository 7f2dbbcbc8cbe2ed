# build: sockets sockets.c
# Where the kernel's types are not to be had, its functions are probed by kprobes, with arguments by number.
. /vm/lib.sh

mount --bind /dev/null /sys/kernel/btf/vmlinux || fail "the kernel's types cannot be hidden"
trap 'umount /sys/kernel/btf/vmlinux' EXIT

target sockets --connections 9 --send 1000
uprof_start count kernel:tcp_sendmsg --pid $target
go
uprof_stop
end_target
grep -q kprobe said || fail "it is not by kprobe: $(grep tcp_sendmsg said)"
equal "sends" "$(probe aggregated)" 9

target sockets --connections 9 --send 1000
uprof_start trace kernel:tcp_sendmsg --capture size=arg2 --capture 'result=(int)retval' --pid $target
go
uprof_stop
end_target
equal "sizes of sends" "$(events size | sort | uniq -c | tr -d ' ')" "91000"
equal "results of sends" "$(events result | sort -u)" 1000
pass
