# build: calls calls.c
# Histograms of latency: every call in it, none shorter or (in sum) longer than the program itself measured.
. /vm/lib.sh

for how in "" "--return uretprobe" "--return ret" "--mechanism perf" "--self"; do
    target calls --calls 200 --threads 2 --spin-ns 200000
    uprof_start latency /fixtures/calls:work --pid $target $how
    go
    uprof_stop
    end_target
    equal "hits ($how)" "$(probe hits)" "$(truth calls)"
    equal "aggregated ($how)" "$(probe aggregated)" "$(truth calls)"
    histogram=$(tail -n 1 report | sed 's/.*"histograms"://; s/"probe_cost_ns".*//; s/"buckets".*//')
    equal "calls in the histogram ($how)" "$(number count "$histogram")" "$(truth calls)"
    min=$(number min "$histogram")
    max=$(number max "$histogram")
    [ "$min" -ge "$(truth own_min_ns)" ] || fail "the shortest is $min ns, the program's own $(truth own_min_ns) ($how)"
    [ "$max" -ge "$(truth own_max_ns)" ] || fail "the longest is $max ns, the program's own $(truth own_max_ns) ($how)"
done
pass
