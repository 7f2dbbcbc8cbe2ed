# program: redis-server redis-cli
# The recipe on this machine's redis: clients that leave, one that is killed by another, one that says QUIT.
. /vm/lib.sh

redis-server --port 6390 --save '' --appendonly no > redis 2>&1 &
server=$!
remember $server
answers() { redis-cli -p 6390 ping | grep -q PONG; }
wait_for "redis" answers
uprof_start recipe redis-close --pid $server
for n in $(seq 10); do redis-cli -p 6390 set key-$n value; done > /dev/null
# It waits until the server hangs up.
(printf 'QUIT\r\n'; sleep 3) | nc 127.0.0.1 6390 > /dev/null
(echo "CLIENT SETNAME victim"; sleep 20) | nc 127.0.0.1 6390 > victim &
wait_for "the victim" grep -q OK victim
id=$(redis-cli -p 6390 client list | sed -n 's/^id=\([0-9]*\) .*name=victim.*/\1/p')
redis-cli -p 6390 client kill id $id > killed
equal "killed" "$(cat killed)" 1
uprof_stop
equal "clients that left" "$(events command '"verdict":"peer"' | grep -cx set)" 10
equal "of QUIT" "$(events verdict '"cause":"QUIT"')" app
equal "of CLIENT KILL" "$(events verdict '"cause":"CLIENT KILL"')" app
pass
