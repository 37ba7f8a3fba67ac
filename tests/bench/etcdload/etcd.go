package main

import (
	"context"
	"errors"
	"flag"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

func connect(endpoint string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 30 * time.Second})
}

func put(arguments []string) error {
	flags := flag.NewFlagSet("put", flag.ExitOnError)
	endpoint := flags.String("endpoint", "", "host:port")
	key := flags.String("key", "key", "")
	size := flags.Int("size", 60, "bytes of the value")
	_ = flags.Parse(arguments)
	client, err := connect(*endpoint)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.Put(context.Background(), *key, strings.Repeat("x", *size))
	if err == nil {
		say(map[string]any{"put": time.Now().UnixNano()})
	}
	return err
}

// ranges reads one key as fast as it is answered: serializable, as a cache would read.
func ranges(arguments []string) error {
	flags := flag.NewFlagSet("range", flag.ExitOnError)
	endpoint := flags.String("endpoint", "", "host:port")
	key := flags.String("key", "key", "")
	connections := flags.Int("connections", 16, "")
	workers := flags.Int("workers", 1, "of each connection")
	seconds := flags.Float64("seconds", 5, "")
	_ = flags.Parse(arguments)

	var clients []*clientv3.Client
	for range *connections {
		client, err := connect(*endpoint)
		if err != nil {
			return err
		}
		defer client.Close()
		if _, err := client.Get(context.Background(), *key); err != nil {
			return err
		}
		clients = append(clients, client)
	}
	var group sync.WaitGroup
	found := make([][]time.Duration, *connections**workers)
	failures := make([]error, len(found))
	begin := time.Now()
	end := begin.Add(time.Duration(*seconds * float64(time.Second)))
	for number := range found {
		group.Go(func() {
			client := clients[number%len(clients)]
			for {
				started := time.Now()
				if started.After(end) {
					return
				}
				answer, err := client.Get(context.Background(), *key, clientv3.WithSerializable())
				if err == nil && len(answer.Kvs) != 1 {
					err = errors.New("no such key")
				}
				if err != nil {
					failures[number] = err
					return
				}
				found[number] = append(found[number], time.Since(started))
			}
		})
	}
	group.Wait()
	took := time.Since(begin).Seconds()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	all := slices.Concat(found...)
	slices.Sort(all)
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return err
	}
	processor := time.Duration(used.Utime.Nano() + used.Stime.Nano())
	say(map[string]any{
		"rate":   float64(len(all)) / took,
		"p50":    all[len(all)/2].Seconds(),
		"p99":    all[len(all)*99/100].Seconds(),
		"client": processor.Seconds() / float64(len(all)),
	})
	return nil
}

// watch watches one key many times. Its client puts all watches of one context's metadata on one gRPC stream
// (shared, what it does by default); other metadata gives each a stream, another client each a connection.
func watch(arguments []string) error {
	flags := flag.NewFlagSet("watch", flag.ExitOnError)
	endpoint := flags.String("endpoint", "", "host:port")
	key := flags.String("key", "key", "")
	watchers := flags.Int("watchers", 10_000, "")
	mode := flags.String("mode", "shared", "shared, streams or connections")
	_ = flags.Parse(arguments)
	if err := raiseOpenFiles(); err != nil {
		return err
	}

	arrivals := &Arrivals{watchers: *watchers, at: map[int][]int64{}}
	shared, err := connect(*endpoint)
	if err != nil {
		return err
	}
	defer shared.Close()
	failed := make(chan error, *watchers)
	for number := range *watchers {
		client, ctx := shared, context.Background()
		switch *mode {
		case "streams":
			ctx = metadata.AppendToOutgoingContext(ctx, "watcher", strconv.Itoa(number))
		case "connections":
			if client, err = connect(*endpoint); err != nil {
				return err
			}
			defer client.Close()
		}
		events := client.Watch(ctx, *key, clientv3.WithCreatedNotify())
		if answer, ok := <-events; !ok || answer.Err() != nil {
			return errors.New("a watch was refused")
		}
		go func() {
			event := 0
			for answer := range events {
				for range answer.Events {
					event++
					arrivals.note(event)
				}
			}
			failed <- errors.New("a watch ended")
		}()
	}
	say(map[string]any{"ready": *watchers})
	ended := make(chan struct{})
	go func() { untilTold(); close(ended) }()
	select {
	case err := <-failed:
		return err
	case <-ended:
		return nil
	}
}
