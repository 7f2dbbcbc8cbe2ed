# build: sockets sockets.c
# The recipe: connections that came about and such that were refused.
. /vm/lib.sh

recipe tcp-connect -- --connections 2 --refused 3
equal "owner" "$(events pid | sort -u)" "$target"
equal "connected" "$(events to '"remote":"127.0.0.1:7001"' | sort | uniq -c | awk '{ print $1 $2 }')" 2ESTABLISHED
equal "refused" "$(events error '"remote":"127.0.0.1:7002"' | sort | uniq -c | awk '{ print $1 $2 }')" 3ECONNREFUSED
recipe tcp-connect --failed -- --connections 2 --refused 3
equal "failed" "$(events error | wc -l)" 3
pass
