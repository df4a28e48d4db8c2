// A small stress in Go, whose runtime makes its own system calls and preempts its threads by signals: files,
// appends of many goroutines, pipes, signals and children. Prints "ok PART" for each part.
//
//	stub_go DIR
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

var dir string
var failures int32

func must(good bool, what string, details ...interface{}) bool {
	if !good && atomic.AddInt32(&failures, 1) < 20 {
		fmt.Printf("FAIL %s: %v\n", what, details)
	}
	return good
}

func create(name string, flags int) *os.File {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_TRUNC|os.O_RDWR|flags, 0600)
	if err != nil {
		fmt.Println("FAIL", err)
		os.Exit(3)
	}
	return f
}

func files() {
	var all sync.WaitGroup
	for g := 0; g < 8; g++ {
		all.Add(1)
		go func(g int) {
			defer all.Done()
			f := create(fmt.Sprintf("go-%d", g), 0)
			defer f.Close()
			for i := 0; i < 600; i++ {
				text := []byte(fmt.Sprintf("%08d-%08d", g, i))
				back := make([]byte, len(text))
				n, err := f.WriteAt(text, int64(i%40)*17)
				must(n == 17 && err == nil, "WriteAt", n, err)
				n, err = f.ReadAt(back, int64(i%40)*17)
				must(n == 17 && err == nil && bytes.Equal(text, back), "ReadAt", n, err, string(back))
				if i%16 == 0 {
					other, err := os.Open(f.Name())
					must(err == nil, "Open", err)
					n, err = io.ReadFull(other, back)
					must(n == 17 && err == nil, "ReadFull", n, err)
					must(other.Close() == nil, "Close")
					runtime.GC()
				}
				if i%100 == 0 {
					must(f.Sync() == nil, "Sync")
				}
			}
			info, err := f.Stat()
			must(err == nil && info.Size() == 40*17, "Stat", err)
		}(g)
	}
	all.Wait()
}

func appends() {
	f := create("go-appended", os.O_APPEND)
	var all sync.WaitGroup
	for g := 0; g < 8; g++ {
		all.Add(1)
		go func(g int) {
			defer all.Done()
			for i := 0; i < 300; i++ {
				n, err := f.Write(bytes.Repeat([]byte{byte('a' + g)}, 32))
				must(n == 32 && err == nil, "Write", n, err)
			}
		}(g)
	}
	all.Wait()
	must(f.Close() == nil, "Close")
	text, err := os.ReadFile(filepath.Join(dir, "go-appended"))
	must(err == nil && len(text) == 8*300*32, "ReadFile", err, len(text))
	count := map[byte]int{}
	for i := 0; i+32 <= len(text); i += 32 {
		must(bytes.Count(text[i:i+32], text[i:i+1]) == 32, "a record is whole", i)
		count[text[i]]++
	}
	for g := 0; g < 8; g++ {
		must(count[byte('a'+g)] == 300, "records of a goroutine", g, count[byte('a'+g)])
	}
}

func pipes() {
	var all sync.WaitGroup
	for g := 0; g < 4; g++ {
		r, w, err := os.Pipe()
		must(err == nil, "Pipe", err)
		all.Add(2)
		go func(w *os.File) {
			defer all.Done()
			for i := 0; i < 1000; i++ {
				fmt.Fprintf(w, "%07d\n", i)
			}
			w.Close()
		}(w)
		go func(r *os.File) {
			defer all.Done()
			text, err := io.ReadAll(r)
			must(err == nil && len(text) == 8000, "ReadAll", err, len(text))
			for i, line := range strings.Fields(string(text)) {
				must(line == fmt.Sprintf("%07d", i), "a line", line)
			}
			r.Close()
		}(r)
	}
	all.Wait()
}

func signals() {
	channel := make(chan os.Signal, 1000)
	signal.Notify(channel, syscall.SIGUSR1)
	f := create("go-signals", 0)
	defer f.Close()
	got := 0
	for i := 0; i < 300; i++ {
		must(syscall.Kill(os.Getpid(), syscall.SIGUSR1) == nil, "Kill")
		text := []byte(fmt.Sprintf("%08d", i))
		n, err := f.WriteAt(text, 0)
		must(n == 8 && err == nil, "WriteAt", n, err)
		<-channel
		got++
	}
	must(got == 300, "signals", got)
	signal.Stop(channel)
}

func children() {
	f := create("go-family", os.O_APPEND)
	defer f.Close()
	var all sync.WaitGroup
	for c := 0; c < 12; c++ {
		all.Add(1)
		go func(c int) {
			defer all.Done()
			command := exec.Command("/proc/self/exe", "--child", fmt.Sprint(c))
			command.ExtraFiles = []*os.File{f}
			out, err := command.Output()
			must(err == nil && string(out) == fmt.Sprintf("child %d\n", c), "a child", err, string(out))
		}(c)
	}
	all.Wait()
	info, err := f.Stat()
	must(err == nil && info.Size() == 12*100*8, "Stat", err, info.Size())
}

func child(number string) {
	f := os.NewFile(3, "inherited")
	for i := 0; i < 100; i++ {
		if n, err := f.Write([]byte("childish")); n != 8 || err != nil {
			fmt.Println("FAIL", n, err)
			os.Exit(4)
		}
	}
	fmt.Println("child", number)
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "--child" {
		child(os.Args[2])
		return
	}
	if len(os.Args) != 2 {
		os.Exit(2)
	}
	dir = os.Args[1]
	for _, part := range []struct {
		name string
		run  func()
	}{{"files", files}, {"appends", appends}, {"pipes", pipes}, {"signals", signals}, {"children", children}} {
		before := atomic.LoadInt32(&failures)
		part.run()
		if atomic.LoadInt32(&failures) == before {
			fmt.Println("ok  ", part.name)
		}
	}
	fmt.Printf("stub_go: %d failures\n", failures)
	if failures > 0 {
		os.Exit(1)
	}
}
