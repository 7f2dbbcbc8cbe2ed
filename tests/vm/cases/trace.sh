# build: calls calls.c
# Events: arguments and results, text, recursion; returns by the kernel's way and by probes on the exits.
. /vm/lib.sh

# traced FUNCTION FLAGS... -- ARGUMENTS-OF-PROGRAM...
traced() {
    function=$1
    shift
    flags=
    while [ "$1" != -- ]; do
        flags="$flags $1"
        shift
    done
    shift
    target calls "$@"
    uprof_start trace "/fixtures/calls:$function" --pid $target $flags
    go
    uprof_stop
    end_target
    equal "hits of $function ($flags)" "$(probe hits)" "$(truth calls)"
    equal "dropped ($flags)" "$(probe dropped)" 0
}

traced work --capture n=arg0 -- --calls 1000
events n > numbers
seq 0 999 | cmp - numbers || fail "the arguments are not 0, 1, 2, ..."
equal "pid" "$(events pid | sort -u)" "$target"

for how in "" "--return ret"; do
    traced work $how --capture result=retval -- --calls 500 --threads 2
    equal "events ($how)" "$(events result | wc -l)" 1000
    equal "sum of what was returned ($how)" "$(events result | sum)" "$(truth returned)"
done
for how in "" "--mechanism perf" "--mechanism perf --return ret"; do
    traced recurse $how --capture left=arg0 --capture result=retval -- --function recurse --calls 20 --depth 30
    equal "returns of a recursive function ($how)" "$(probe emitted)" $((20 * 31))
    equal "results of a recursive function ($how)" "$(events result | sum)" $((20 * 31 * 32 / 2))
done

traced greet --capture 'text=str(arg0,arg1)' -- --function text --calls 30
equal "texts" "$(events text | sort | uniq -c | awk '{ print $1 $2 $3 }' | tr '\n' ' ')" \
    "3name0 3name1 3name2 3name3 3name4 3name5 3name6 3name7 3name8 3name9 "
pass
