# build: calls calls.c
# build: calls-static calls.c -static
# `uprof count` against the program's own count: threads, several sites in one probe, a static program, filters, keys.
. /vm/lib.sh

# counted PROGRAM FUNCTION EXPECTED-CALLS FLAGS... -- ARGUMENTS-OF-PROGRAM...
counted() {
    program=$1 function=$2
    shift 2
    flags=
    while [ "$1" != -- ]; do
        flags="$flags $1"
        shift
    done
    shift
    target "$program" "$@"
    uprof_start count "/fixtures/$program:$function" --pid $target $flags
    go
    uprof_stop
    end_target
    equal "hits of $function ($program$flags)" "$(probe hits)" "$(truth calls)"
}

counted calls work -- --calls 20000 --threads 2
equal "aggregated" "$(probe aggregated)" 40000
counted calls work --mechanism perf -- --calls 5000 --threads 2
counted calls '/^(work|greet|recurse)$/' -- --calls 1000
equal "sites" "$(probe sites)" 3
counted calls '/^(work|greet|recurse)$/' --mechanism perf -- --calls 1000
counted calls recurse -- --function recurse --calls 50 --depth 100
counted calls-static work -- --calls 5000
counted calls work --where arg0%10==7 -- --calls 5000
equal "filtered" "$(probe filtered)" 4500
counted calls work --by digit=arg0%10 -- --calls 5000
equal "keys" "$(tail -n 1 report | grep -o '"digit":[0-9]' | sort -u | wc -l)" 10
pass
