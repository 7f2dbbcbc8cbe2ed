# build: sockets sockets.c
# The recipe: each send of both sides with its size and addresses, and sizes in a histogram.
. /vm/lib.sh

recipe tcp-send --events --port 7001 -- --connections 3 --send 1000 --reply 30
equal "sizes" "$(events sent | sort -n | uniq -c | awk '{ print $1 "x" $2 }' | tr '\n' ' ')" "3x30 3x1000 "
equal "owner" "$(events pid | sort -u)" "$target"
equal "the client's last end" "$(events local '"sent":1000[,}]' | tail -n 1)" "127.0.0.1:$(truth client_port)"
recipe tcp-send --port 7001 -- --connections 3 --send 1000 --reply 30
equal "sends in the histogram" "$(tail -n 1 report | grep -o '"count":6,"min":30,"max":1000' | wc -l)" 1
pass
