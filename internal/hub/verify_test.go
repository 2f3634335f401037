package hub

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// TestVerify checks that Verify finds damage of the same size, which Fetch does not find.
func TestVerify(t *testing.T) {
	needLinks(t)
	h := newFakeHub(t, tinyFiles())
	c := h.client(t)
	fetch(t, c, "hf:"+testRepo)
	verify := func() map[string]FileCheck {
		t.Helper()
		checks, err := c.Verify(t.Context(), testRepo, testCommit)
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]FileCheck{}
		for _, check := range checks {
			found[check.File] = check
		}
		return found
	}
	found := verify()
	for file, sum := range map[string]string{"model.safetensors": sha256Of(weights), "config.json": gitBlob(h.files["config.json"]), "preprocessor_config.json": gitBlob(h.files["preprocessor_config.json"])} {
		if got := found[file]; got.Sum != sum || got.Err != nil || got.Bytes != int64(len(h.files[file])) {
			t.Errorf("%s: %+v", file, got)
		}
	}
	f := c.folder(testRepo)
	place(t, c, "", func(path string) error { return os.WriteFile(path, []byte("x"+weights[1:]), 0o666) })
	err := errors.Join(os.Remove(f.blob(gitBlob(h.files["config.json"]))), os.Mkdir(f.snapshot(testCommit, "sub"), 0o777),
		os.WriteFile(f.snapshot(testCommit, "sub/copy"), []byte("x"), 0o666))
	if err != nil {
		t.Fatal(err)
	}
	found = verify()
	for file, want := range map[string]string{"model.safetensors": "is damaged: its checksum is " + sha256Of("x"+weights[1:]), "config.json": "was deleted"} {
		if got := found[file].Err; got == nil || !strings.Contains(got.Error(), want) || !strings.Contains(got.Error(), "the next fetch downloads it again") {
			t.Errorf("%s: got %v, want %q", file, got, want)
		}
	}
	if got := found["sub/copy"]; got.Sum != "" || got.Err != nil || len(found) != 4 {
		t.Errorf("a file without a checksum: %+v of %d files", got, len(found))
	}
	for _, commit := range []string{strings.Repeat("e", 40), "../../x"} {
		if _, err := c.Verify(t.Context(), testRepo, commit); kindOf(err) != input {
			t.Errorf("commit %s: %v", commit, err)
		}
	}
}
