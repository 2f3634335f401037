package run_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sptune/spt/checkpoint"
	"github.com/sptune/spt/internal/embedded"
	"github.com/sptune/spt/run"
)

// TestOpenFromHub downloads a backbone from a test server in place of the Hub. A recorded
// configuration must find the same weights after the branch has changed.
func TestOpenFromHub(t *testing.T) {
	m, err := embedded.Model(0)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "model.safetensors")
	if err := m.Save(path, checkpoint.F16, nil); err != nil {
		t.Fatal(err)
	}
	weights, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first, commit := strings.Repeat("1", 40), strings.Repeat("1", 40)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/") {
			fmt.Fprintf(w, `{"sha": %q, "siblings": [{"rfilename": "model.safetensors"}]}`, commit)
			return
		}
		w.Header().Set("ETag", fmt.Sprintf("\"%x\"", sha256.Sum256(weights)))
		w.Header().Set("Content-Length", fmt.Sprint(len(weights)))
		_, _ = w.Write(weights)
	}))
	defer server.Close()
	for _, name := range []string{"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"} {
		t.Setenv(name, "")
	}
	t.Setenv("HF_HOME", t.TempDir())
	t.Setenv("HF_ENDPOINT", server.URL)

	c := run.ModelConfig{Path: "hf:tests/demo"}
	opened, _, err := c.Open(t.Context(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if opened.Fingerprint() == "" || opened.Origin != "hf:tests/demo@"+first || filepath.Base(opened.Path) != "model.safetensors" {
		t.Errorf("origin %q, path %q", opened.Origin, opened.Path)
	}
	c.Record(opened)
	if c.Path != "hf:tests/demo" || c.Commit != first {
		t.Errorf("recorded %+v", c)
	}
	commit, weights = strings.Repeat("2", 40), weights[:1000]
	if again, _, err := c.Open(t.Context(), 0, nil); err != nil || again.Origin != opened.Origin {
		t.Errorf("after the branch moved: %v", err)
	}
	var input *run.InputError
	if _, _, err := (&run.ModelConfig{Path: "hf:tests/demo"}).Open(t.Context(), 0, nil); !errors.As(err, &input) {
		t.Errorf("weights that are cut short: %v", err)
	}
	c.Commit = "../../x"
	if _, _, err := c.Open(t.Context(), 0, nil); !errors.As(err, &input) || !strings.Contains(err.Error(), "expected 40 hexadecimal digits") {
		t.Errorf("a hostile configuration: %v", err)
	}
	var option *run.OptionError
	if _, _, err := (&run.ModelConfig{Path: "hf:demo"}).Open(t.Context(), 0, nil); !errors.As(err, &option) {
		t.Errorf("a broken reference: %v", err)
	}
}

// TestUnknownTensors: a checkpoint with a layer that spt does not know can be tuned, but its own
// head cannot be used.
func TestUnknownTensors(t *testing.T) {
	m, err := embedded.Model(0)
	if err != nil {
		t.Fatal(err)
	}
	entries := []checkpoint.Entry{{Name: "pre_logits.fc.bias", DType: checkpoint.F32, Shape: []int{1}, Data: []float32{1}}}
	for name, x := range m.Weights.Fused() {
		entries = append(entries, checkpoint.Entry{Name: name, DType: checkpoint.F32, Shape: x.Shape, Data: x.Data})
	}
	c := run.ModelConfig{Path: filepath.Join(t.TempDir(), "model.safetensors"), NumHeads: m.Config.NumHeads}
	if err := checkpoint.Save(c.Path, entries, nil); err != nil {
		t.Fatal(err)
	}
	var input *run.InputError
	if _, _, err := c.Open(t.Context(), 0, nil); !errors.As(err, &input) || !strings.Contains(err.Error(), `"pre_logits.fc.bias"`) {
		t.Errorf("with its head: %v", err)
	}
	if _, report, err := c.Open(t.Context(), 3, nil); err != nil || !slices.Contains(report.Unused, "pre_logits.fc.bias") {
		t.Errorf("with a new head: %+v, %v", report, err)
	}
}
