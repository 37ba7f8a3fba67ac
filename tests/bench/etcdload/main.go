// Load for etcd through its own client, and a client that holds many Server-Sent Events streams cheaply.
//
//	etcdload put   -endpoint HOST:PORT -key K -size BYTES
//	etcdload range -endpoint HOST:PORT -key K -connections N -workers N -seconds S
//	etcdload watch -endpoint HOST:PORT -key K -watchers N -mode shared|streams|connections
//	etcdload sse   -address HOST:PORT -path P -streams N
//
// Every command prints lines of JSON. `watch` and `sse` first print {"ready": N}, and then, for each event that
// all watchers have got, {"event": number, "last": …, "p50": …, "first": …} in nanoseconds of the wall clock;
// they end with their standard input.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

func main() {
	commands := map[string]func([]string) error{"put": put, "range": ranges, "watch": watch, "sse": sse}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "etcdload put|range|watch|sse")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "etcdload:", err)
		os.Exit(1)
	}
}

var printing sync.Mutex

func say(line map[string]any) {
	printing.Lock()
	defer printing.Unlock()
	_ = json.NewEncoder(os.Stdout).Encode(line)
}

// untilTold waits for the end of standard input.
func untilTold() {
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// Arrivals notes when which of many watchers had which event.
type Arrivals struct {
	mutex    sync.Mutex
	watchers int
	at       map[int][]int64
}

// note says that one more watcher has the event of this number.
func (a *Arrivals) note(event int) {
	now := time.Now().UnixNano()
	a.mutex.Lock()
	defer a.mutex.Unlock()
	if a.at[event] == nil {
		a.at[event] = make([]int64, 0, a.watchers)
	}
	a.at[event] = append(a.at[event], now)
	if len(a.at[event]) == a.watchers {
		all := a.at[event]
		slices.Sort(all)
		last := all[len(all)-1]
		say(map[string]any{"event": event, "first": all[0], "p50": all[len(all)/2], "last": last})
		delete(a.at, event)
	}
}
