# program: redis-server redis-cli
# The recipe on this machine's redis: as many of each command as the server itself counts, with their words.
. /vm/lib.sh

redis-server --port 6390 --save '' --appendonly no > redis 2>&1 &
server=$!
remember $server
answers() { redis-cli -p 6390 ping | grep -q PONG; }
wait_for "redis" answers
redis-cli -p 6390 config resetstat > /dev/null
uprof_start recipe redis-commands --events --pid $server
for n in $(seq 20); do redis-cli -p 6390 set key-$n value; done > /dev/null
redis-cli -p 6390 get key-7 > /dev/null
redis-cli -p 6390 config get maxmemory > /dev/null
uprof_stop
redis-cli -p 6390 info commandstats > stats
for command in set get 'config|get'; do
    calls=$(sed -n "s/^cmdstat_$command:calls=\([0-9]*\),.*/\1/p" stats)
    equal "calls of $command" "$(events command | grep -cx "$command")" "$calls"
done
equal "the server's own account" "$(sed -n 's/^cmdstat_set:calls=\([0-9]*\),.*/\1/p' stats)" 20
equal "with its words" "$(grep '"type":"event"' report | grep '"command":"set"' | grep -c key-20)" 1
pass
