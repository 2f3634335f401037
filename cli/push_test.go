package cli

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// gitBlob returns the hash that git gives to the content of a file.
func gitBlob(path string) string {
	data, _ := os.ReadFile(path)
	return fmt.Sprintf("%x", sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(data), data)))
}

// mkpushhub REPO DIR starts a hub without repositories that makes REPO when it is asked to, writes
// its files into DIR, and sets HF_ENDPOINT. The file DIR/.private exists if the repository is
// private. The tests of internal/hub play the protocol; this hub takes small files only.
func mkpushhub(ts *testscript.TestScript, _ bool, args []string) {
	repo, dir := args[0], ts.MkAbs(args[1])
	var mu sync.Mutex
	commits, private := 0, false
	fail := func(w http.ResponseWriter, err error) bool {
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
		return err != nil
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case r.Header.Get("Authorization") != "Bearer hf_good":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/api/repos/create":
			var v struct{ Private bool }
			if fail(w, json.NewDecoder(r.Body).Decode(&v)) || fail(w, os.MkdirAll(dir, 0o777)) {
				return
			}
			commits, private = 1, v.Private
			if private {
				fail(w, os.WriteFile(filepath.Join(dir, ".private"), nil, 0o666))
			}
		case commits == 0:
			w.Header().Set("X-Error-Code", "RepoNotFound")
			w.WriteHeader(http.StatusNotFound)
		case r.URL.Path == "/api/models/"+repo+"/revision/main":
			siblings := []map[string]string{}
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				siblings = append(siblings, map[string]string{"rfilename": e.Name(), "blobId": gitBlob(filepath.Join(dir, e.Name()))})
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"sha": fmt.Sprintf("%040x", commits), "private": private, "siblings": siblings})
		case strings.HasSuffix(r.URL.Path, "/preupload/main"):
			var v struct{ Files []map[string]any }
			if fail(w, json.NewDecoder(r.Body).Decode(&v)) {
				return
			}
			for _, f := range v.Files {
				f["uploadMode"] = "regular"
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"files": v.Files})
		case strings.HasSuffix(r.URL.Path, "/commit/main"):
			lines := bufio.NewScanner(r.Body)
			lines.Buffer(nil, 64<<20)
			for lines.Scan() {
				var line struct {
					Key   string
					Value struct{ Path, Content string }
				}
				if fail(w, json.Unmarshal(lines.Bytes(), &line)) {
					return
				}
				data, err := base64.StdEncoding.DecodeString(line.Value.Content)
				if line.Key == "file" && (fail(w, err) || fail(w, os.WriteFile(filepath.Join(dir, line.Value.Path), data, 0o666))) {
					return
				}
			}
			commits++
			_ = json.NewEncoder(w).Encode(map[string]string{"commitOid": fmt.Sprintf("%040x", commits)})
		}
	}))
	ts.Defer(server.Close)
	ts.Setenv("HF_ENDPOINT", server.URL)
}
