// A right chat server in Go, with two goroutines for each client and one lock: the suite must have nothing against it.
//
//	go build chat.go && ./chat PORT
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
)

const maxMessage, maxUnsent = 4096, 1 << 20
const tcpClose = 7 // the first byte of struct tcp_info is the state, on a little-endian machine (tcp(7), linux/tcp.h)

type client struct {
	conn    *net.TCPConn
	name    string
	mutex   sync.Mutex
	more    *sync.Cond
	unsent  [][]byte
	waiting int
	closed  bool
	tooSlow bool
	sending sync.Mutex
	reset   bool
}

var digits = regexp.MustCompile("^[0-9]{1,5}$")

var (
	lock    sync.Mutex
	clients = map[*client]bool{}
	most    int

	stopping         bool
	readers, writers sync.WaitGroup
)

func say(format string, words ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05")+" "+format+"\n", words...)
}

func withoutTelnet(line []byte) []byte {
	data := []byte{}
	for i := 0; i < len(line); i++ {
		next := -1
		if i+1 < len(line) {
			next = int(line[i+1])
		}
		switch {
		case line[i] != 0xFF:
			data = append(data, line[i])
		case next < 0:
		case next == 0xFF:
			data = append(data, 0xFF)
			i++
		case next >= 0xFB:
			i += 2
		case next == 0xFA:
			for i += 2; i < len(line) && !(line[i] == 0xFF && (i+1 == len(line) || line[i+1] == 0xF0)); i++ {
				if line[i] == 0xFF {
					i++
				}
			}
			i++
		case next >= 0xEC:
			i++
		default:
			data = append(data, 0xFF)
		}
	}
	return data
}

func safe(r rune) rune {
	if r < 0x20 && r != '\t' || r >= 0x7F && r < 0xA0 || r >= 0x202A && r <= 0x202E || r >= 0x2066 && r <= 0x2069 {
		return -1
	}
	return r
}

func message(sender *client, line []byte) {
	text := strings.Map(safe, string([]rune(string(withoutTelnet(line)))))
	if strings.TrimFunc(text, unicode.IsSpace) == "" {
		return
	}
	data := []byte(sender.name + " says: " + text + "\n")
	lock.Lock()
	defer lock.Unlock()
	for other := range clients {
		if other != sender {
			other.put(data)
		}
	}
}

func (c *client) put(data []byte) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.closed || c.tooSlow {
		return
	}
	c.unsent = append(c.unsent, data)
	if c.waiting += len(data); c.waiting > maxUnsent {
		c.tooSlow = true
		c.conn.Close()
	}
	c.more.Signal()
}

func (c *client) write() {
	defer writers.Done()
	for {
		c.mutex.Lock()
		for len(c.unsent) == 0 && !c.closed && !c.tooSlow {
			c.more.Wait()
		}
		data := bytes.Join(c.unsent, nil)
		c.unsent = nil
		ended := c.closed || c.tooSlow
		c.mutex.Unlock()
		if len(data) > 0 && !c.tooSlow {
			if ended {
				c.conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			}
			c.sending.Lock()
			_, err := c.conn.Write(data) // most errors are told to Read as well
			c.reset = c.reset || errors.Is(err, syscall.ECONNRESET)
			c.sending.Unlock()
			c.mutex.Lock()
			c.waiting -= len(data)
			c.mutex.Unlock()
		}
		if ended {
			c.conn.Close()
			return
		}
	}
}

// wasReset tells, at the end of the stream, whether that is a reset. The system tells of a reset once: if it has told
// Write, Read gets an end as if the client had finished its last line.
func (c *client) wasReset() bool {
	state := 0
	if conn, err := c.conn.SyscallConn(); err == nil {
		conn.Control(func(fd uintptr) {
			state, _ = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
		})
	}
	if state&0xFF != tcpClose { // so it is not worth to wait for a Write, which may wait long
		return false
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	return c.reset
}

func (c *client) leave(why string, last string) {
	lock.Lock()
	delete(clients, c)
	online := len(clients)
	lock.Unlock()
	c.mutex.Lock()
	if c.tooSlow {
		why = "dropped: too slow"
	}
	c.closed = true
	if last != "" {
		c.unsent = append(c.unsent, []byte(last))
	}
	c.more.Signal()
	c.mutex.Unlock()
	say("%s %s, %d online", c.name, why, online)
}

func (c *client) read() {
	defer readers.Done()
	var received []byte
	buffer := make([]byte, maxMessage)
	for {
		count, err := c.conn.Read(buffer)
		received = append(received, buffer[:count]...)
		rest, _, interrupted := bytes.Cut(received, []byte("\xff\xf4"))
		for {
			line, after, found := bytes.Cut(rest, []byte("\n"))
			if len(line) >= maxMessage && (found || len(line) > maxMessage) {
				c.leave("dropped: message too long", "error: a message may be at most 4096 bytes\n")
				return
			}
			if !found {
				break
			}
			message(c, line)
			rest = after
		}
		received = append([]byte{}, rest...)
		if interrupted {
			c.leave("left", "")
			return
		}
		if errors.Is(err, os.ErrDeadlineExceeded) { // the server stops, and says so when all have told what they read
			return
		}
		if err != nil {
			if err == io.EOF && !c.wasReset() {
				message(c, received)
				c.leave("left", "")
			} else {
				c.leave("dropped: connection reset by peer", "")
			}
			return
		}
	}
}

// wait waits for goroutines, for 0.7 seconds at most.
func wait(group *sync.WaitGroup) {
	done := make(chan bool)
	go func() {
		group.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(700 * time.Millisecond):
	}
}

func main() {
	if len(os.Args) != 2 || !digits.MatchString(os.Args[1]) || len(os.Args[1]) == 5 && os.Args[1] > "65535" {
		fmt.Fprintln(os.Stderr, "usage: chat PORT")
		os.Exit(2)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE)
	listener, err := net.Listen("tcp4", "127.0.0.1:"+os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "chat: cannot listen:", err)
		os.Exit(1)
	}
	var limit syscall.Rlimit
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	most = int(limit.Cur) - 20
	say("listening on %s", listener.Addr())
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			c := &client{conn: conn.(*net.TCPConn), name: conn.RemoteAddr().String()}
			c.more = sync.NewCond(&c.mutex)
			c.conn.SetKeepAlive(true)
			lock.Lock()
			if len(clients) >= most {
				lock.Unlock()
				conn.Write([]byte("error: the room is full\n"))
				conn.Close()
				continue
			}
			if stopping {
				lock.Unlock()
				conn.Close()
				return
			}
			clients[c] = true
			online := len(clients)
			readers.Add(1)
			writers.Add(1)
			lock.Unlock()
			say("%s joined, %d online", c.name, online)
			go c.read()
			go c.write()
		}
	}()
	<-signals
	listener.Close()
	lock.Lock()
	stopping = true
	those := []*client{}
	for c := range clients {
		those = append(those, c)
		c.conn.SetReadDeadline(time.Now())
		c.conn.SetWriteDeadline(time.Now().Add(time.Second))
	}
	lock.Unlock()
	wait(&readers)
	for _, c := range those {
		lock.Lock()
		here := clients[c]
		lock.Unlock()
		if here {
			c.leave("dropped: server stopping", "")
		}
	}
	wait(&writers)
	say("bye")
	os.Exit(0)
}
