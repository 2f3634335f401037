// Package hub fetches pretrained backbones from the Hugging Face Hub, or from
// any server that speaks as it does, into the cache that all of Hugging Face's
// libraries share: what one of them has fetched, the others find.
//
// [Parse] reads a reference such as hf:google/vit-base-patch16-224, and
// [Client.Fetch] makes of it the path of a weights file with its configuration
// beside it, on which package backbone runs. reference.go says what a name may
// be, cache.go where files lie, request.go how the Hub is asked and what its
// refusals mean, download.go how a file comes whole and unchanged, and this file
// which files are wanted.
package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Client fetches models. The zero value of each field but Endpoint and Cache is
// usable; New fills them in. A Client may be used by several goroutines at once
// if Progress may.
type Client struct {
	Endpoint string // such as https://huggingface.co
	Cache    string // the folder of models--OWNER--NAME
	Token    string // sent to Endpoint's host alone; empty: none
	Offline  bool   // never ask the network
	// Progress is told of each file that has to be downloaded; may be nil.
	Progress func(Progress)

	backoff time.Duration // before the first repetition; doubles
	stall   time.Duration // without a byte before an attempt is given up
}

// Progress is how far one file has come. Done equals Total once, when the file
// is whole, verified and in its place.
type Progress struct {
	File        string // its path in the repository
	Done, Total int64  // bytes; Total is 0 while the server does not say it
}

// Snapshot is a model in the cache.
type Snapshot struct {
	// Path is the weights file, or the index of its shards, which lie beside it
	// as config.json and preprocessor_config.json do, if the repository has them.
	Path   string
	Commit string // the commit that the files are of
	// Note says why the cache was used without asking the Hub whether the
	// revision has moved; empty if it was asked, or could not have moved.
	Note string
}

// New makes a client from the environment, by the variables of Hugging Face's
// own libraries: HF_ENDPOINT; HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME and
// XDG_CACHE_HOME (default ~/.cache/huggingface/hub); HF_TOKEN,
// HUGGING_FACE_HUB_TOKEN and the file HF_TOKEN_PATH (default HF_HOME/token)
// unless HF_HUB_DISABLE_IMPLICIT_TOKEN is set; HF_HUB_OFFLINE and
// TRANSFORMERS_OFFLINE. Proxies are those of net/http.
func New() (*Client, error) {
	home := expand(os.Getenv("HF_HOME"))
	if home == "" {
		base := expand(os.Getenv("XDG_CACHE_HOME"))
		if base == "" {
			base = expand("~/.cache")
		}
		home = filepath.Join(base, "huggingface")
	}
	first := func(values ...string) string {
		for _, v := range values {
			if v = strings.TrimSpace(v); v != "" {
				return v
			}
		}
		return ""
	}
	cache, err := filepath.Abs(first(expand(os.Getenv("HF_HUB_CACHE")), expand(os.Getenv("HUGGINGFACE_HUB_CACHE")), filepath.Join(home, "hub")))
	if err != nil {
		return nil, fmt.Errorf("finding the cache of the Hugging Face Hub: %w; set HF_HOME to a folder", err)
	}
	c := &Client{
		Endpoint: strings.TrimRight(first(os.Getenv("HF_ENDPOINT"), "https://huggingface.co"), "/"),
		Cache:    cache,
		Offline:  isSet("HF_HUB_OFFLINE") || isSet("TRANSFORMERS_OFFLINE"),
	}
	if !isSet("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
		c.Token = first(os.Getenv("HF_TOKEN"), os.Getenv("HUGGING_FACE_HUB_TOKEN"))
		if c.Token == "" {
			// Most have none, and one that cannot be read is as good as none: the
			// Hub will say so where it is needed.
			file, _ := os.ReadFile(first(expand(os.Getenv("HF_TOKEN_PATH")), filepath.Join(home, "token")))
			c.Token = strings.TrimSpace(string(file))
		}
	}
	return c, nil
}

// expand resolves ~ and $VARIABLES, as huggingface_hub does.
func expand(p string) string {
	if p == "~" || strings.HasPrefix(p, "~/") {
		if home, err := os.UserHomeDir(); err == nil {
			p = home + p[1:]
		}
	}
	return os.ExpandEnv(p)
}

func isSet(variable string) bool {
	return slices.Contains([]string{"1", "ON", "YES", "TRUE"}, strings.ToUpper(os.Getenv(variable)))
}

// Files that are wanted besides the weights, from the folder of these, and the
// usual names of weights: the first that a repository has.
var (
	sideFiles   = []string{"config.json", "preprocessor_config.json"}
	weightFiles = []string{"model.safetensors", "model.safetensors" + indexSuffix, "pytorch_model.bin", "pytorch_model.bin" + indexSuffix}
)

const indexSuffix = ".index.json"

// presence says whether a repository has a file, as far as it is known: a cache
// need not hold all of a repository.
type presence int

const (
	unknown presence = iota
	absent
	present
)

// choose names the weights and the files beside them; weights is empty if none
// are found. certain is false where the whole repository might give another
// answer.
func choose(r Reference, look func(file string) presence) (weights string, side []string, certain bool) {
	certain = true
	candidates := weightFiles
	if r.File != "" {
		candidates = []string{r.File}
	}
	for _, name := range candidates {
		switch look(name) {
		case present:
			weights = name
		case unknown:
			certain = false
		}
		if weights != "" {
			break
		}
	}
	for _, name := range sideFiles {
		name = path.Join(path.Dir(weights), name)
		switch look(name) {
		case present:
			side = append(side, name)
		case unknown:
			certain = false
		}
	}
	return weights, side, certain
}

// Fetch brings what r names into the cache, if it is not there, and says where
// it lies. A revision other than a commit is looked up on the Hub each time; if
// that cannot be reached and the cache holds what it last was, that is used, and
// Note says so. Downloads that were stopped are gone on with.
func (c *Client) Fetch(ctx context.Context, r Reference) (*Snapshot, error) {
	if _, err := Parse(r.String()); err != nil {
		return nil, err
	}
	if r.Revision == "" {
		r.Revision = "main"
	}
	s, err := c.fetch(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", r, err)
	}
	return s, nil
}

func (c *Client) fetch(ctx context.Context, r Reference) (*Snapshot, error) {
	f := c.folder(r.Repo)
	local, certain, err := f.find(r)
	if c.Offline {
		if err != nil {
			return nil, err
		}
		if local == nil {
			return nil, fmt.Errorf("it is not, or not wholly, in the cache %s, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids to ask the network; fetch it once without, or set HF_HOME or HF_HUB_CACHE to the cache that has it", c.Cache)
		}
		local.Note = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, so the cache was used: commit " + local.Commit
		if !certain {
			local.Note += "; whether the repository has files that the cache lacks is not known"
		}
		return local, nil
	}
	if IsCommit(r.Revision) && local != nil && certain {
		return local, nil
	}
	info, err := c.info(ctx, r, local == nil)
	var out *unreachable
	if errors.As(err, &out) && local != nil {
		local.Note = fmt.Sprintf("the Hub cannot be reached (%v), so the cache was used: commit %s", out, local.Commit)
		return local, nil
	}
	if err != nil {
		return nil, err
	}
	return c.bring(ctx, f, r, info)
}

// bring downloads what the cache lacks of the files that info lists.
func (c *Client) bring(ctx context.Context, f folder, r Reference, info *repoInfo) (*Snapshot, error) {
	look := func(name string) presence {
		if slices.Contains(info.files, name) {
			return present
		}
		return absent
	}
	weights, side, _ := choose(r, look)
	if weights == "" {
		return nil, missingWeights(r, info.files)
	}
	files := append(side, weights) // the small ones first
	for _, name := range files {
		if err := c.download(ctx, f, r.Repo, info.commit, name); err != nil {
			return nil, err
		}
	}
	s := &Snapshot{Path: f.snapshot(info.commit, weights), Commit: info.commit}
	shards, err := shardsOf(s.Path, weights)
	if err != nil {
		return nil, err
	}
	for _, name := range shards {
		if look(name) != present {
			return nil, fmt.Errorf("%s lists the shard %q, which the repository does not have", weights, name)
		}
		if err := c.download(ctx, f, r.Repo, info.commit, name); err != nil {
			return nil, err
		}
	}
	// Only now, so that the revision never points to a model in parts.
	return s, f.remember(r, info.commit, look)
}

func missingWeights(r Reference, files []string) error {
	if r.File != "" {
		return fmt.Errorf("the repository has no file %q at this revision", r.File)
	}
	var found []string
	for _, name := range files {
		if slices.Contains([]string{".safetensors", ".bin", ".pth", ".pt", ".tar", ".npz"}, path.Ext(name)) {
			found = append(found, fmt.Sprintf("%q", name))
		}
	}
	if len(found) == 0 {
		return fmt.Errorf("the repository has no weights: neither %s nor another file that could be", strings.Join(weightFiles, ", "))
	}
	if len(found) > 10 {
		found = append(found[:10], "…")
	}
	return fmt.Errorf("the repository has none of %s; it has %s: name one, as %s", strings.Join(weightFiles, ", "), strings.Join(found, ", "), Reference{r.Repo, r.Revision, "FILE"})
}

// shardsOf lists the files that an index, if weights is one, is of.
func shardsOf(local, weights string) ([]string, error) {
	if !strings.HasSuffix(weights, indexSuffix) {
		return nil, nil
	}
	data, err := os.ReadFile(local)
	if err != nil {
		return nil, fmt.Errorf("reading the index of the shards: %w", err)
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("reading %s, the index of the shards: %w", local, err)
	}
	names := map[string]bool{}
	for tensor, shard := range index.WeightMap {
		if !validPath(shard) || strings.Contains(shard, "/") {
			return nil, fmt.Errorf("%s puts tensor %q into %q, expected the name of a file beside it", local, tensor, shard)
		}
		names[path.Join(path.Dir(weights), shard)] = true
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s has no weight_map, or an empty one: it is no index of shards", local)
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// client follows redirects as a model's files need it: not where the answer
// itself has what is asked for, and without the token on other hosts.
func (c *Client) client(follow bool) *http.Client {
	return &http.Client{CheckRedirect: func(next *http.Request, before []*http.Request) error {
		if next.Response != nil && !follow && next.Response.Header.Get("X-Linked-Etag") != "" {
			return http.ErrUseLastResponse
		}
		if len(before) >= 10 {
			return errors.New("more than 10 redirects")
		}
		// net/http keeps it for subdomains, such as those of the Hub's stores,
		// whose addresses are signed and refuse a second proof.
		if next.URL.Host != before[0].URL.Host || next.URL.Scheme != before[0].URL.Scheme {
			next.Header.Del("Authorization")
		}
		return nil
	}}
}
