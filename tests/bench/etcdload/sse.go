package main

import (
	"bytes"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
)

const (
	together  = 200 // connections that are opened before their answers are read
	bufferize = 1 << 20
)

// stream is one connection: what is incomplete of it, and how many events it has had.
type stream struct {
	fd     int
	rest   []byte
	begun  bool
	events int
}

// sse holds many Server-Sent Events streams in one thread, which waits for all of them with epoll(7): a goroutine
// for each would cost more than the server that is measured.
func sse(arguments []string) error {
	flags := flag.NewFlagSet("sse", flag.ExitOnError)
	address := flags.String("address", "", "host:port")
	path := flags.String("path", "", "")
	count := flags.Int("streams", 10_000, "")
	token := flags.String("token", "", "sent as a bearer token")
	_ = flags.Parse(arguments)
	if err := raiseOpenFiles(); err != nil {
		return err
	}
	resolved, err := net.ResolveTCPAddr("tcp4", *address)
	if err != nil {
		return err
	}
	target := &syscall.SockaddrInet4{Port: resolved.Port, Addr: [4]byte(resolved.IP.To4())}
	head := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\n", *path, *address)
	if *token != "" {
		head += "Authorization: Bearer " + *token + "\r\n"
	}
	client := &client{
		arrivals: &Arrivals{watchers: *count, at: map[int][]int64{}},
		streams:  map[int]*stream{},
		buffer:   make([]byte, bufferize),
	}
	if client.epoll, err = syscall.EpollCreate1(0); err != nil {
		return err
	}
	for opened := 0; opened < *count; {
		for range min(together, *count-opened) {
			if err := client.open(target, head+"\r\n"); err != nil {
				return err
			}
			opened++
		}
		for client.begun < opened {
			if err := client.turn(-1); err != nil {
				return err
			}
		}
	}
	say(map[string]any{"ready": *count})
	if err := client.add(int(os.Stdin.Fd())); err != nil {
		return err
	}
	for !client.told {
		if err := client.turn(-1); err != nil {
			return err
		}
	}
	return nil
}

type client struct {
	epoll    int
	arrivals *Arrivals
	streams  map[int]*stream
	begun    int
	buffer   []byte
	told     bool
}

func (c *client) add(fd int) error {
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
	return syscall.EpollCtl(c.epoll, syscall.EPOLL_CTL_ADD, fd, &event)
}

func (c *client) open(target syscall.Sockaddr, request string) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := syscall.Connect(fd, target); err != nil {
		return err
	}
	if _, err := syscall.Write(fd, []byte(request)); err != nil {
		return err
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		return err
	}
	c.streams[fd] = &stream{fd: fd}
	return c.add(fd)
}

// turn waits for bytes, once, and takes them.
func (c *client) turn(milliseconds int) error {
	var ready [1024]syscall.EpollEvent
	count, err := syscall.EpollWait(c.epoll, ready[:], milliseconds)
	if err == syscall.EINTR {
		return nil
	}
	if err != nil {
		return err
	}
	for _, event := range ready[:count] {
		fd := int(event.Fd)
		read, err := syscall.Read(fd, c.buffer)
		switch {
		case err == syscall.EAGAIN || err == syscall.EINTR:
			continue
		case err != nil:
			return err
		case c.streams[fd] == nil: // standard input
			c.told = c.told || read == 0
		case read == 0:
			return fmt.Errorf("a stream was ended after %d events: %.200q", c.streams[fd].events, c.streams[fd].rest)
		default:
			if err := c.take(c.streams[fd], c.buffer[:read]); err != nil {
				return err
			}
		}
	}
	return nil
}

// take counts the events that are complete now. The frames of chunks are between events, never within one.
func (c *client) take(s *stream, data []byte) error {
	if len(s.rest) > 0 {
		data = append(s.rest, data...)
	}
	for {
		block, rest, found := bytes.Cut(data, []byte("\n\n"))
		if !found {
			break
		}
		data = rest
		switch text := string(block); {
		case strings.Contains(text, "event: snapshot\n"):
			if !strings.Contains(text, "HTTP/1.1 200") {
				return fmt.Errorf("not the first event: %.300q", text)
			}
			s.begun = true
			c.begun++
		case strings.Contains(text, "event: delta\n"):
			s.events++
			c.arrivals.note(s.events)
		}
	}
	if !s.begun && len(data) > 12 && !bytes.HasPrefix(data, []byte("HTTP/1.1 200")) {
		return fmt.Errorf("answered %.300q", data)
	}
	s.rest = nil
	if len(data) > 0 && len(bytes.TrimSpace(data)) > 0 {
		s.rest = bytes.Clone(data)
	}
	return nil
}

// raiseOpenFiles has this process open as many files as it may.
func raiseOpenFiles() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}
