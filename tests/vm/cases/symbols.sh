# build: calls calls.c
# Names and places, and the plan that is made of them: nothing here is attached.
. /vm/lib.sh

uprof symbols /fixtures/calls work > told 2> said || fail "status $?: $(head -n 1 said)"
cat told said
grep -q work told || fail "work is not listed"
uprof latency /fixtures/calls:work --explain > told 2> said || fail "--explain: status $?: $(head -n 1 said)"
cat told said
grep -q work told || fail "the plan does not name work"
uprof count /fixtures/calls:wrok > told 2> said && fail "a function that is not there was found"
grep -q work said || fail "the nearest name is not told: $(cat said)"
pass
