# build: nginx nginx_closes.c
# The recipe on a program with nginx's function: each close is joined with its socket, and who was first is right.
. /vm/lib.sh

target nginx --connections 20
uprof_start recipe nginx-close --pid $target
go
uprof_stop
end_target
equal "hits" "$(probe hits close)" "$(truth calls)"
count() { grep '"probe":"close"' report | grep -c "\"verdict\":\"$1\",\"cause\":$2"; }
equal "closed by the application" "$(count app null)" "$(truth app)"
equal "closed by the peer" "$(count peer null)" "$(truth peer)"
equal "reset by the peer" "$(count peer-reset null)" "$(truth peer_reset)"
equal "reset by the application" "$(count app-reset null)" "$(truth app_reset)"
equal "half-closed by the peer" "$(count peer '"half-close"')" "$(truth half)"
equal "with the time that nginx took" "$(grep -c '"probe":"close".*"verdict":"peer.*"reaction_ns":[0-9]' report)" \
    "$(($(truth peer) + $(truth peer_reset) + $(truth half)))"
equal "bytes received" "$(events bytes_received '"verdict":"app","cause":null,"role":"server"' | sort -u | head -n 1)" 3
# The client's ends, which no function of nginx closes.
equal "of the client" "$(grep '"type":"event"' report | grep -v '"probe":"close"' | grep -c '"role":"client"')" "$(truth calls)"
pass
