//go:build linux

package cli

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestTracking runs commands with --tensorboard and --mlflow. A server that refuses fails no run,
// and its password appears nowhere.
func TestTracking(t *testing.T) {
	p := newPlace(t, 12)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	defer server.Close()
	withPassword := strings.Replace(server.URL, "://", "://me:secret@", 1)
	tune := strings.Fields("tune --model vit.safetensors --data data --out run" + tuneOptions)
	code, messages := p.call(p.spt, append(tune, "--mlflow", strings.Replace(withPassword, "http", "ftp", 1))...)
	if code != exitUsage || !strings.Contains(messages, "--mlflow") && !strings.Contains(messages, "http://") || strings.Contains(messages, "secret") {
		t.Errorf("a wrong address: exit code %d\n%s", code, messages)
	}
	if _, err := os.Stat(p.path("run")); err == nil {
		t.Error("a wrong address makes a run folder")
	}
	later := "spt report run --tensorboard logs --mlflow " + server.URL
	code, messages = p.call(p.spt, append(tune, "--tensorboard", "logs", "--mlflow", withPassword)...)
	if code != 0 || !strings.Contains(messages, "401") || !strings.Contains(messages, later+"\n") || strings.Contains(messages, "secret") {
		t.Errorf("a server that refuses: exit code %d\n%s", code, messages)
	}
	if code, messages = p.call(p.spt, strings.Fields(later)[1:]...); code != exitFailed || !strings.Contains(messages, "sending run: MLflow at "+server.URL) || !strings.Contains(messages, "401") {
		t.Errorf("%s: exit code %d\n%s", later, code, messages)
	}
	events := func() (names []string) {
		for _, training := range []string{"final", "candidates/300", "candidates/600"} {
			// the pattern is right
			found, _ := filepath.Glob(p.path("logs", "run", training, "events.out.tfevents.*"))
			if len(found) != 1 {
				t.Errorf("%s has the event files %q", training, found)
			}
			names = append(names, found...)
		}
		return names
	}
	before := events()
	p.do(strings.Fields("tune --resume run --tensorboard logs")...)
	if after := events(); strings.Join(before, " ") != strings.Join(after, " ") {
		t.Errorf("a finished run has the event files %q, and then %q", before, after)
	}
	p.do(strings.Fields("train --model vit.safetensors --data data --out single --tensorboard logs" + trainOptions)...)
	// the pattern is right
	if found, _ := filepath.Glob(p.path("logs", "single", "final", "*")); len(found) != 1 {
		t.Errorf("train has the event files %q", found)
	}
}

// TestTrackingInterrupted interrupts commands whose server never answers, while the run works and
// after its result. They must end within seconds.
func TestTrackingInterrupted(t *testing.T) {
	if ignored(syscall.SIGINT) {
		t.Skip("SIGINT is ignored here: run the test without nohup")
	}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer func() {
		server.CloseClientConnections()
		server.Close()
	}()
	p := newPlace(t, 12)
	for out, c := range map[string]struct {
		begun, expect string
		code          int
	}{
		"working":  {`(?m)^training.*epoch 1 of`, `(?s)interrupted.*to continue: spt tune --resume working`, exitInterrupted},
		"finished": {`(?m)^delta +finished`, `lacks a part of the run.*: interrupted\n.*spt report finished --mlflow `, 0},
	} {
		args := strings.Fields("tune --model vit.safetensors --data data --out " + out + tuneOptions + "--mlflow " + server.URL)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		command := p.command(p.spt, args...)
		var text output
		command.Stdout, command.Stderr = &text, &text
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		for begun := regexp.MustCompile(c.begun); !begun.MatchString(text.String()); time.Sleep(3 * time.Millisecond) {
			if ctx.Err() != nil {
				_ = command.Process.Kill()
				_ = command.Wait()
				t.Fatalf("the run does not begin to be %s\n%s", out, &text)
			}
		}
		start := time.Now()
		if err := command.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		_ = command.Wait()
		if took, code := time.Since(start), command.ProcessState.ExitCode(); took > 4*time.Second || code != c.code || !regexp.MustCompile(c.expect).MatchString(text.String()) {
			t.Errorf("%s: exit code %d after %v\n%s", out, code, took, &text)
		}
	}
}
