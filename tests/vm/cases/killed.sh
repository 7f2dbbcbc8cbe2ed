# build: calls-static calls.c -static
# program: nm
# After SIGKILL nothing of uprof is left: the target's code is what it was, and the next run counts exactly.
. /vm/lib.sh

# The beginning of work() in the target, as its own memory has them. The program is not moved when loaded.
code() { dd if=/proc/$target/mem bs=1 skip=$address count=32 2> /dev/null | hexdump -v -e '32/1 "%02x"'; }
is_as_before() { [ "$(code)" = "$before" ]; }

address=$((0x$(nm /fixtures/calls-static | sed -n 's/^\([0-9a-f]*\) T work$/\1/p')))
target calls-static --calls 3000
before=$(code)
uprof_start count /fixtures/calls-static:work --pid $target
armed_code=$(code)
[ "$armed_code" != "$before" ] || fail "the probe is not to be seen in the target's memory: $before"
kill -9 $uprof
wait $uprof
wait_for "the target's code as it was ($before, armed $armed_code)" is_as_before
uprof_start count /fixtures/calls-static:work --pid $target
go
uprof_stop
equal "hits after a run that was killed" "$(probe hits)" "$(truth calls)"
wait_for "the target's code as it was" is_as_before
end_target
pass
