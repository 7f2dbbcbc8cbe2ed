# tests: captures exits frames kernel nesting registers
# limit: 200
# What uprof-ebpf makes of each kind of probe, loaded and run by this kernel: the tests of that crate.
. /vm/lib.sh
run_tests captures exits frames kernel nesting registers
