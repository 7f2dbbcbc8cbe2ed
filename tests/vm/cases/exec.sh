# The recipe: programs that a shell starts, and one that is not there.
. /vm/lib.sh

cp /bin/busybox sleep
uprof_start recipe exec
sh -c './sleep 0; exec ./sleep 0.01' &
started=$!
wait $started
./nothing 2> /dev/null
(exec ./sleep 0.02)
uprof_stop
equal "started" "$(events filename '"error":0' | grep -c '^\./sleep$')" 3
equal "arguments of that by exec" \
    "$(grep "\"pid\":$started," report | tail -n 1 | grep -o '"args":"[^"]*"')" '"args":"./sleep\u00000.01\u0000"'
equal "that is not there" "$(events error '"filename":"./nothing"')" ENOENT
pass
