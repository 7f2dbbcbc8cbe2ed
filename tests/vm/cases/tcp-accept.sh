# build: sockets sockets.c
# The recipe: each connection that is accepted, from the port that the client had.
. /vm/lib.sh

recipe tcp-accept --port 7001 -- --connections 3
equal "accepted by" "$(events pid | uniq -c | awk '{ print $1 ":" $2 }')" "3:$target"
equal "at" "$(events local | sort -u)" 127.0.0.1:7001
equal "the last is from" "$(events remote | tail -n 1)" "127.0.0.1:$(truth client_port)"
pass
