// Command client is what tests run in pods: a small server to be asked, and
// the questions that only a pod can ask.
//
// It uses the standard library alone, so it is static, builds in seconds, and
// its image is this one file. What it finds out is printed as one JSON object
// per line; a load ends on SIGTERM with a line of totals.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const usage = `client serve [-listen :8080]        answer each request with the host's name
client get URL                      one request: status and body; exit status 0 on 2xx
client lookup NAME                  the addresses of a name
client load [-every D] [-for D] [-fresh] URL
                                    requests until SIGTERM; a line for each that failed, then totals
client streams [-count N] URL       N open streams until SIGTERM; a line for each that broke, then totals
client sleep                        nothing, until SIGTERM
All take -timeout D and -header 'Name: value' where they ask.
`

func main() {
	commands := map[string]func(context.Context, []string) error{
		"serve": serve, "get": get, "lookup": lookup, "load": load, "streams": streams, "sleep": sleep,
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := commands[os.Args[1]](ended, os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

func say(line map[string]any) {
	encoded, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(encoded))
}

func serve(ended context.Context, arguments []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	listen := flags.String("listen", ":8080", "where")
	flags.Parse(arguments)
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	server := &http.Server{Addr: *listen, Handler: http.HandlerFunc(func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(answer, name)
	})}
	context.AfterFunc(ended, func() { server.Close() })
	if err := server.ListenAndServe(); ended.Err() == nil {
		return err
	}
	return nil
}

func sleep(ended context.Context, _ []string) error {
	<-ended.Done()
	return nil
}

func lookup(ended context.Context, arguments []string) error {
	if len(arguments) != 1 {
		return fmt.Errorf("lookup takes one name, not %d", len(arguments))
	}
	addresses, err := net.DefaultResolver.LookupHost(ended, arguments[0])
	if err != nil {
		return err
	}
	say(map[string]any{"name": arguments[0], "addresses": addresses})
	return nil
}

// asking is what the commands that ask have in common.
type asking struct {
	flags  *flag.FlagSet
	within *time.Duration
	header headers
}

type headers map[string]string

func (these headers) String() string { return fmt.Sprint(map[string]string(these)) }

func (these headers) Set(text string) error {
	for index := range text {
		if text[index] == ':' {
			these[text[:index]] = text[index+1:]
			return nil
		}
	}
	return fmt.Errorf("a header is 'Name: value', not %q", text)
}

func newAsking(name string, within time.Duration) *asking {
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	made := &asking{flags: flags, within: flags.Duration("timeout", within, "of one request"), header: headers{}}
	flags.Var(made.header, "header", "of each request, 'Name: value'; again for more")
	return made
}

func (made *asking) parse(arguments []string) (string, error) {
	made.flags.Parse(arguments)
	if made.flags.NArg() != 1 {
		return "", fmt.Errorf("%s takes one URL, after its flags, not %d", made.flags.Name(), made.flags.NArg())
	}
	return made.flags.Arg(0), nil
}

func (made *asking) open(ended context.Context, client *http.Client, url string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ended, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	for name, value := range made.header {
		request.Header.Set(name, value)
	}
	return client.Do(request)
}

// ask makes one request and reads its answer to the end.
func (made *asking) ask(ended context.Context, client *http.Client, url string) (int, string, error) {
	limited, stop := context.WithTimeout(ended, *made.within)
	defer stop()
	answer, err := made.open(limited, client, url)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(body), err
}

func get(ended context.Context, arguments []string) error {
	asking := newAsking("get", 10*time.Second)
	url, err := asking.parse(arguments)
	if err != nil {
		return err
	}
	code, body, err := asking.ask(ended, http.DefaultClient, url)
	if err != nil {
		return err
	}
	say(map[string]any{"code": code, "body": body})
	if code/100 != 2 {
		return fmt.Errorf("%s answered %d", url, code)
	}
	return nil
}

func load(ended context.Context, arguments []string) error {
	asking := newAsking("load", 5*time.Second)
	every := asking.flags.Duration("every", 10*time.Millisecond, "between the beginnings of two requests")
	lasting := asking.flags.Duration("for", 0, "end by itself after so long; 0: never")
	fresh := asking.flags.Bool("fresh", false, "a new connection for each request")
	url, err := asking.parse(arguments)
	if err != nil {
		return err
	}
	until := ended
	if *lasting > 0 {
		var stop context.CancelFunc
		until, stop = context.WithTimeout(ended, *lasting)
		defer stop()
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: *fresh}}
	tick := time.NewTicker(*every)
	defer tick.Stop()
	codes, failed, longest, bodies := map[int]int{}, 0, time.Duration(0), map[string]int{}
	for until.Err() == nil {
		began := time.Now()
		// What has begun is brought to its end: only a failure may look like one.
		code, body, err := asking.ask(context.Background(), client, url)
		took := time.Since(began)
		longest = max(longest, took)
		codes[code]++
		if len(bodies) < 100 {
			bodies[body]++
		}
		if err != nil || code/100 != 2 {
			failed++
			line := map[string]any{"at": began.UTC(), "took": took.Seconds(), "code": code, "body": body}
			if err != nil {
				line["error"] = err.Error()
			}
			say(line)
		}
		select {
		case <-tick.C:
		case <-until.Done():
		}
	}
	say(map[string]any{"codes": codes, "failed": failed, "longest": longest.Seconds(), "bodies": bodies})
	return nil
}

func streams(ended context.Context, arguments []string) error {
	asking := newAsking("streams", 0)
	count := asking.flags.Int("count", 1, "how many")
	url, err := asking.parse(arguments)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{}} // a connection for each
	var lines, opened, broken atomic.Int64
	var all sync.WaitGroup
	for number := range *count {
		all.Add(1)
		go func() {
			defer all.Done()
			for attempt := 0; ended.Err() == nil; attempt++ {
				why := stream(ended, asking, client, url, &opened, &lines)
				if ended.Err() != nil {
					return
				}
				broken.Add(1)
				say(map[string]any{"at": time.Now().UTC(), "stream": number, "attempt": attempt, "error": why})
				select {
				case <-time.After(100 * time.Millisecond):
				case <-ended.Done():
				}
			}
		}()
	}
	all.Wait()
	say(map[string]any{"opened": opened.Load(), "broken": broken.Load(), "lines": lines.Load()})
	return nil
}

// stream reads one stream until it breaks, and tells why.
func stream(
	ended context.Context, asking *asking, client *http.Client, url string, opened, lines *atomic.Int64,
) string {
	answer, err := asking.open(ended, client, url)
	if err != nil {
		return err.Error()
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		return answer.Status
	}
	opened.Add(1)
	scanner := bufio.NewScanner(answer.Body)
	scanner.Buffer(nil, 16<<20)
	for scanner.Scan() {
		lines.Add(1)
	}
	if err := scanner.Err(); err != nil {
		return err.Error()
	}
	return "the server ended it"
}
