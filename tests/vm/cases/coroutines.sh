# build: ucontext ucontext.c
# build: ntyco ntyco.c
# The recipes of coroutines: as many switches and runs as the programs count themselves.
. /vm/lib.sh

uprof recipe ucontext-coroutines --format json -o report -- /fixtures/ucontext --rounds 20 > truth 2> said
uprof_ended $?
switches=$(grep -o '"switches":{[^}]*}' truth | grep -o ':[0-9][0-9]*' | tr -d : | sum)
equal "switches" "$(probe hits switch)" "$switches"
equal "coroutines made" "$(probe hits make)" 2
uprof recipe ntyco-coroutines --format json -o report -- /fixtures/ntyco --coroutines 5 > truth 2> said
uprof_ended $?
equal "coroutines created" "$(probe hits create)" "$(truth created)"
pass
