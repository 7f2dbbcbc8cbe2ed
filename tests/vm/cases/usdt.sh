# build: ways ways.c
# build: ways-asked ways.c -D_SDT_HAS_SEMAPHORES
# USDT probes with their arguments, also those that a program passes only while their semaphore is up.
. /vm/lib.sh

for program in ways ways-asked; do
    target $program --calls 200
    uprof_start trace usdt:/fixtures/$program:uprof_ways:entry --pid $target --capture n=arg0 --capture twice=arg1
    go
    uprof_stop
    equal "$program: hits" "$(probe hits)" 200
    events n > numbers
    seq 0 199 | cmp - numbers || fail "$program: the arguments are not 0, 1, 2, ..."
    equal "$program: the last second argument" "$(events twice | tail -n 1)" 398
    end_target
done
pass
