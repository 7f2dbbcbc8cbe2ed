# tests: amounts captures exits frames kernel nesting registers stacks
# limit: 600
# What uprof-ebpf makes of each kind of probe, loaded and run by this kernel: the tests of that crate.
. /vm/lib.sh
run_tests amounts captures exits frames kernel nesting registers stacks
