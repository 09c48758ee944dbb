package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A stage is where one program runs: its directory, its ports and its words, replaced.
type stage struct {
	program
	dir    string
	words  *strings.Replacer
	port   int
	target *net.TCPAddr // what the clients ask
	env    []string     // of everything that runs here
	server *process     // the program's front; nil: it has none
}

// newStage makes the directory and what the program needs in it. The caller calls clear.
func newStage(ctx context.Context, p program) (s *stage, err error) {
	s = &stage{program: p}
	if s.dir, err = os.MkdirTemp("", "forkd-compat-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.clear()
		}
	}()
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	s.port = ports[0]
	s.target = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: s.port}
	if p.front != nil {
		s.target.Port = ports[1]
	}
	s.words = strings.NewReplacer("$PORT", strconv.Itoa(s.port), "$FRONT", strconv.Itoa(ports[1]), "$DIR", s.dir,
		"$EXAMPLES", filepath.Join(root, "examples"), "$PROGRAMS", filepath.Join(root, "test/compat/programs"), "$BIN", filepath.Join(root, "bin"))
	s.env = append(os.Environ(), "FORKD_RUNTIME_DIR="+s.dir+"/run", "FORKD_STATE_DIR="+s.dir+"/state", "PM2_HOME="+s.dir+"/pm2")
	if err := s.furnish(root); err != nil {
		return nil, err
	}
	if p.prepare != nil {
		if said, err := s.do(ctx, p.prepare); err != nil {
			return nil, fmt.Errorf("%w: %s", err, said)
		}
	}
	if p.front != nil {
		s.server, err = s.start(p.front, nil)
	}
	return s, err
}

func (s *stage) clear() {
	if s.server != nil {
		s.server.end()
		s.server = nil
	}
	s.sweep()
	_ = os.RemoveAll(s.dir)
}

func (s *stage) sweep() (left []string) {
	if s.server != nil {
		return sweep(s.server.cmd.Process.Pid)
	}
	return sweep()
}

// furnish fills the directory. Servers that change their user can read it.
func (s *stage) furnish(root string) error {
	page, err := os.ReadFile(filepath.Join(root, "examples/php/index.php"))
	err = errors.Join(err,
		os.Chmod(s.dir, 0o755),
		os.MkdirAll(filepath.Join(s.dir, "new"), 0o755),
		os.MkdirAll(filepath.Join(s.dir, "done"), 0o755),
		os.MkdirAll(filepath.Join(s.dir, "www"), 0o755),
		os.WriteFile(filepath.Join(s.dir, "www/index.html"), []byte("hello\n"), 0o644),
		os.WriteFile(filepath.Join(s.dir, "www/index.php"), page, 0o644))
	for _, name := range s.files {
		text, rerr := os.ReadFile(filepath.Join(root, "test/compat/programs", name))
		err = errors.Join(err, rerr, os.WriteFile(filepath.Join(s.dir, name), []byte(s.words.Replace(string(text))), 0o644))
	}
	return err
}

func (s *stage) replaced(words []string) []string {
	replaced := make([]string, len(words))
	for i, word := range words {
		replaced[i] = s.words.Replace(word)
	}
	return replaced
}

func (s *stage) command(ctx context.Context, words, env []string) *exec.Cmd {
	words = s.replaced(words)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env = append(append(append([]string{}, s.env...), s.replaced(s.program.env)...), s.replaced(env)...)
	cmd.Dir = s.dir
	if s.in != "" {
		cmd.Dir = s.words.Replace(s.in)
	}
	return cmd
}

// do runs a command to its end and returns what it printed.
func (s *stage) do(ctx context.Context, words []string) (string, error) {
	cmd := s.command(ctx, words, nil)
	cmd.WaitDelay = time.Second // of a daemon that keeps the pipe
	said, err := cmd.CombinedOutput()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return string(said), fmt.Errorf("%s: %w", filepath.Base(words[0]), err)
	}
	return string(said), nil
}

// A process is a server that runs on a stage. Its owner calls end.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

func (s *stage) start(words, env []string) (*process, error) {
	cmd := s.command(context.Background(), words, env)
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	// Ctrl-C is for this program, which then ends what it has started. A session, as forkd's
	// workers have: the kernel shares the processors among sessions (sched(7), the autogroup
	// feature), and a server in that of the clients gets up to half as much again.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// endTime is how long a server may take to end by itself.
const endTime = 8 * time.Second

// end asks the process to end, and kills it when that takes long.
func (p *process) end() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if !p.endsIn(endTime) {
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

func (p *process) endsIn(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.ended:
		return true
	case <-timer.C:
	}
	select {
	case <-p.ended: // with both at once, either was taken
		return true
	default:
		return false
	}
}

// lastLine is the last that was printed on the stage.
func (s *stage) lastLine() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// freePorts finds ports that nobody holds now.
func freePorts(n int) (ports []int, err error) {
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close()
		ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
