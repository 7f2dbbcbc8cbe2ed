# tests: chain switch verifier
# limit: 900
# slow
# The rest of them: calls in each other, changes in the run, random expressions.
. /vm/lib.sh
run_tests chain switch verifier
