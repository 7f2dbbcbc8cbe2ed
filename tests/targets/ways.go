// ways: functions, methods and closures of Go, each called 1000 times behind a gate.
package main

import (
	"bufio"
	"fmt"
	"os"
)

type ledger struct{ total int }

//go:noinline
func (l *ledger) Add(n int) { l.total += n }

//go:noinline
func GlobalWork(n int) int { return 3*n + 1 }

func inlinedWork(n int) int { return n ^ 7 }

//go:noinline
func user(n int) int { return inlinedWork(n) + 1 }

func main() {
	in := bufio.NewReader(os.Stdin)
	fmt.Printf("{\"ready\":true,\"pid\":%d}\n", os.Getpid())
	in.ReadString('\n')
	l := &ledger{}
	const calls = 1000
	for i := 0; i < calls; i++ {
		l.Add(GlobalWork(i) + user(i))
	}
	fmt.Printf("{\"pid\":%d,\"calls\":%d,\"total\":%d}\n", os.Getpid(), calls, l.total)
	in.ReadString('\n')
}
