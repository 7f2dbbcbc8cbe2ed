// Go strings as arguments: tests/types.rs knows the values.
package main

import "fmt"

type request struct {
	path   string
	status int32
}

//go:noinline
func handle(verb string, r *request, size uint16) int {
	return len(verb) + len(r.path) + int(r.status) + int(size)
}

func main() {
	first := &request{"/index.html", 200}
	second := &request{"/grüße", 404}
	fmt.Println(handle("GET", first, 17) + handle("DELETE", second, 0))
}
