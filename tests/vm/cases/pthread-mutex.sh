# build: mutexes mutexes.c
# The recipe: those that waited for a mutex, and nobody else.
. /vm/lib.sh

uprof recipe pthread-mutex --format json -o report -- /fixtures/mutexes --rounds 5 --free 100 > truth 2> said
uprof_ended $?
# Of each round one thread waits for each of the two mutexes that are held; the third is free. Where threads are as slow as
# here others wait now and then, too.
[ "$(probe aggregated wait)" -ge "$(grep -c '"mutex":' truth)" ] || fail "$(probe aggregated wait) waits"
for mutex in $(tail -n 1 truth | grep -o '0x[0-9a-f]*' | head -n 2); do
    tail -n 1 report | grep -q "\"mutex\":\"$mutex\"" || fail "nobody waited for $mutex"
done
pass
