# build: sockets sockets.c
# The recipe: calls of accept4, counted and one by one.
. /vm/lib.sh

recipe accept -- --connections 4
equal "accepted" "$(tail -n 1 report | grep -o '"comm":"sockets","error":0},"count":[0-9]*' | sed 's/.*://')" 4
recipe accept --each -- --connections 4
equal "each by" "$(events pid | uniq -c | awk '{ print $1 ":" $2 }')" "4:$target"
pass
