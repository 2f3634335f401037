package browsertest

import (
	"encoding/csv"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// program builds spt once and returns its path.
var program = sync.OnceValues(func() (string, error) {
	path := filepath.Join(temporary, "spt")
	build := exec.Command("go", "build", "-o", path, "./cmd/spt")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building spt: %w\n%s", err, out)
	}
	return path, nil
})

// command returns a command of spt. It skips the test without a browser.
func command(t *testing.T, arguments ...string) *exec.Cmd {
	t.Helper()
	if browser == nil {
		t.Skip("Chromium is not installed")
	}
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command(path, arguments...)
}

// spt runs a command of spt.
func spt(t *testing.T, arguments ...string) {
	t.Helper()
	if out, err := command(t, arguments...).CombinedOutput(); err != nil {
		t.Fatalf("spt %q: %v\n%s", arguments, err, out)
	}
}

// writeImage writes a picture of noise around the colour of a class. The colours of neighbouring
// classes are close, so that a short training confuses them.
func writeImage(t *testing.T, path string, class, n int) {
	t.Helper()
	r := rand.New(rand.NewPCG(uint64(class), uint64(n)))
	centre := [3]float64{float64(class * 23 % 256), float64(class * 41 % 256), float64(class * 67 % 256)}
	picture := image.NewRGBA(image.Rect(0, 0, 32, 32))
	shift := r.NormFloat64() * 25
	for y := range 32 {
		for x := range 32 {
			var pixel [3]uint8
			for c := range pixel {
				pixel[c] = uint8(min(max(centre[c]+shift+r.NormFloat64()*40, 0), 255))
			}
			picture.SetRGBA(x, y, color.RGBA{pixel[0], pixel[1], pixel[2], 255})
		}
	}
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(png.Encode(file, picture), file.Close()); err != nil {
		t.Fatal(err)
	}
}

// classFolders makes a data set of class folders.
func classFolders(t *testing.T, classes, images int) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "colours")
	for class := range classes {
		inside := filepath.Join(folder, fmt.Sprintf("colour %02d", class))
		if err := os.MkdirAll(inside, 0o777); err != nil {
			t.Fatal(err)
		}
		for n := range images {
			writeImage(t, filepath.Join(inside, fmt.Sprintf("%d.png", n)), class, n)
		}
	}
	return folder
}

// A name that stays a text on the page runs nothing. In a page that does not escape it, each of
// these would set window.hacked.
var hostileClasses = []string{
	`<script>window.hacked=1</script>`,
	`</script><script>window.hacked=2</script>`,
	`"><img src=x onerror=window.hacked=3>`,
	`' onmouseover='window.hacked=4' x='`,
	`</title></textarea></style><svg onload=window.hacked=5>`,
	`</svg><iframe srcdoc="<script>top.hacked=6</script>"></iframe>`,
	`javascript:window.hacked=7//`,
	`{{.Secret}} ${window.hacked=8} &lt;b&gt; &amp; %3Cscript%3E`,
	`-->]]><script>window.hacked=9</script><!--`,
	"🦓 zebra 👩‍👩‍👧‍👦 é",
	"قطة سوداء \u202egnp.tac\u202c", // right to left, with an override
	"line\u2028separator",
	strings.Repeat("w", 300),
	strings.TrimSpace(strings.Repeat("many words ", 30)),
}

// hostileFiles are names of image files.
var hostileFiles = []string{
	`<img src=x onerror=window.hacked=10>.png`,
	`"'><svg onload=window.hacked=11>.png`,
	`🦓 قطة.png`,
	strings.Repeat("n", 200) + ".png",
	`javascript:window.hacked=12.png`,
	`#?&%20.png`,
}

// hostileTable makes a data set of a table with hostile names of classes, files and folders.
func hostileTable(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), `<img src=x onerror=window.hacked=13> "data'`)
	if err := os.MkdirAll(folder, 0o777); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(folder, "metadata.csv"))
	if err != nil {
		t.Fatal(err)
	}
	table := csv.NewWriter(file)
	table.Write([]string{"file_name", "label"})
	for class, label := range hostileClasses {
		for n, name := range hostileFiles {
			name = fmt.Sprintf("%02d %s", class, name)
			writeImage(t, filepath.Join(folder, name), class, n)
			table.Write([]string{name, label})
		}
	}
	table.Flush()
	if err := errors.Join(table.Error(), file.Close()); err != nil {
		t.Fatal(err)
	}
	return folder
}

// tune trains the embedded backbone for a data set and returns the run folder.
func tune(t *testing.T, data string, flags ...string) string {
	t.Helper()
	run := filepath.Join(t.TempDir(), "a run")
	spt(t, append([]string{"tune", "--model", "demo", "--data", data, "--device", "cpu", "--out", run, "--epochs", "3"}, flags...)...)
	return run
}

// openReport writes the report of runs or of a sweep and opens it.
func openReport(t *testing.T, of ...string) *tab {
	t.Helper()
	path := filepath.Join(t.TempDir(), "report.html")
	start := time.Now()
	spt(t, append(append([]string{"report"}, of...), "--out", path)...)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("report: %d bytes in %v", info.Size(), time.Since(start).Round(time.Millisecond))
	return open(t, fileURL(t, path))
}

// liveRun is a run that is under way with a live page.
type liveRun struct {
	url  string
	done chan error // gets the result of the command
	out  *lockedBuffer
}

// lockedBuffer is the output of a command that is read while the command writes.
type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// startLive starts a training with a live page on a free port, and returns when the page is there.
// The command is killed if the test ends first.
func startLive(t *testing.T, data string, flags ...string) *liveRun {
	t.Helper()
	arguments := []string{"tune", "--model", "demo", "--data", data, "--device", "cpu", "--out", filepath.Join(t.TempDir(), "a run"), "--live", "127.0.0.1:0"}
	c := command(t, append(arguments, flags...)...)
	r := &liveRun{done: make(chan error, 1), out: &lockedBuffer{}}
	c.Stdout, c.Stderr = r.out, r.out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		r.done <- c.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		c.Process.Kill()
		<-ended
	})
	address := regexp.MustCompile(`http://127\.0\.0\.1:\d+/`)
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if r.url = address.FindString(r.out.String()); r.url != "" {
			return r
		}
		select {
		case <-ended:
			t.Fatalf("spt tune --live ended without the address of a page: %v\n%s", <-r.done, r.out)
		default:
		}
	}
	t.Fatalf("spt tune --live printed no address within %v:\n%s", limit, r.out)
	panic("unreachable")
}
