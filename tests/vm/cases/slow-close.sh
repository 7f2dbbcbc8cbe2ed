# build: sockets sockets.c
# The recipe: with no time allowed each end whose peer hangs up first is late, and its descriptor and stack are known.
. /vm/lib.sh

recipe slow-close --port 7001 --longer-than 0s -- --connections 3
closed='"now":"closed"'
equal "closed too late" "$(events since "$closed" | sort | uniq -c | awk '{ print $1 $2 }')" "3hangup"
equal "by whom" "$(events pid | sort -u)" "$target"
equal "the server's ends" "$(events local "$closed" | sort -u)" "127.0.0.1:7001"
equal "the last one's peer" "$(events remote "$closed" | tail -n 1)" "127.0.0.1:$(truth client_port)"
equal "with descriptors" "$(grep "$closed" report | grep -c '"fd":[0-9]')" 3
equal "with stacks" "$(grep "$closed" report | grep -c '"stack":\["')" 3
pass
