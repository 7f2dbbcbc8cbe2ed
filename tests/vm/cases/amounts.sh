# build: calls-framed calls.c -fno-omit-frame-pointer -mno-omit-leaf-frame-pointer
# Sums, stacks as keys, and a sample: what kernels' verifiers have to agree with beyond counting.
. /vm/lib.sh

target calls-framed --calls 1000
uprof_start count /fixtures/calls-framed:work --pid $target --sum n=arg0
go
uprof_stop
end_target
equal "sum of the arguments" "$(tail -n 1 report | grep -o '"sum":499500' | head -n 1)" '"sum":499500'

target calls-framed --calls 1000
uprof_start count /fixtures/calls-framed:work --pid $target --by ustack
go
uprof_stop
end_target
equal "aggregated by stack" "$(probe aggregated)" 1000
equal "stacks" "$(tail -n 1 report | grep -o '"count":1000' | wc -l)" 1

target calls-framed --function recurse --calls 10 --depth 20
uprof_start count /fixtures/calls-framed:recurse --pid $target --by ustack
go
uprof_stop
end_target
# One for each depth.
equal "stacks of a recursion" "$(tail -n 1 report | grep -o '"count":10[,}]' | wc -l)" 21

target calls-framed --calls 1000
uprof_start count /fixtures/calls-framed:work --pid $target --sample 10
go
uprof_stop
end_target
equal "hits of a sample" "$(($(probe aggregated) + $(probe unsampled)))" 1000
pass
