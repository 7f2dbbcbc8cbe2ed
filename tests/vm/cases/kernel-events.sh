# tests: events functions
# limit: 600
# Probes on events of the kernel: tracepoints, raw tracepoints, and its functions by fentry, fexit and kprobes, all of
# which Debian's kernels have.
. /vm/lib.sh
export UPROF_TEST_FUNCTIONS=1
run_tests events functions
