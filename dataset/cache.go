package dataset

import "sync"

// DefaultCacheBytes is the limit, in bytes, of a cache made with NewCache(0). Such a cache holds
// about 7000 images of 224 × 224 pixels.
const DefaultCacheBytes = 1 << 30

// Cache keeps resized images in memory, up to a limit in bytes. When the cache is full, a loader
// decodes the remaining images again in every pass. The cache never evicts an image: every epoch
// reads each image once, so eviction would not help.
//
// Several loaders may share a Cache, even if their transforms differ. A Cache is safe for
// concurrent use. Image files must not change while the cache is in use. A nil *Cache keeps
// nothing.
type Cache struct {
	limit int64 // bytes

	mu     sync.Mutex
	used   int64 // bytes
	full   bool  // an image did not fit
	images map[cacheKey]*RGB
}

// cacheKey identifies a resized image: the image and everything that determines its pixels after
// the resize.
type cacheKey struct {
	path  string
	image *RGB
	crop  bool // the resize keeps the aspect ratio
	limit bool // the resize keeps the aspect ratio, and smaller images keep their size
	size  int  // side of the resized image in pixels; if crop or limit is true, its shorter side
}

// cacheKey returns the key of a sample that t resizes.
func (t Transform) cacheKey(s Sample) cacheKey {
	k := cacheKey{path: s.Path, image: s.Image, size: t.Size}
	if t.Augment.crops() {
		k.limit, k.size = true, t.cropSource()
		return k
	}
	if t.crops() {
		k.size = t.resizeTo()
	}
	k.crop = t.Resize == "crop"
	return k
}

// entryBytes is the approximate size of a cache entry in bytes, without its pixels and its path.
const entryBytes = 200

// StoredBytes returns about how many bytes a Cache needs for an image that t transforms. It assumes
// the ratio 3:2 for a resize that keeps the aspect ratio.
func (t Transform) StoredBytes() int64 {
	side := int64(t.Size)
	if t.crops() {
		side = int64(t.resizeTo())
	}
	pixels := side * side
	if t.Resize == "crop" {
		pixels = pixels * 3 / 2
	}
	return 3*pixels + entryBytes
}

// NewCache returns a cache that holds at most limit bytes. Zero means 1 GiB. A cache with a
// negative limit keeps nothing.
func NewCache(limit int64) *Cache {
	if limit == 0 {
		limit = DefaultCacheBytes
	}
	return &Cache{limit: limit, images: make(map[cacheKey]*RGB)}
}

// get returns the image for a key, or nil if the cache does not hold it.
func (c *Cache) get(k cacheKey) *RGB {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.images[k]
}

// hasRoom reports whether the cache holds the image for a key, or has had room for all images so
// far.
func (c *Cache) hasRoom(k cacheKey) bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.full || c.images[k] != nil
}

// put keeps an image if it fits. If two workers have decoded the same image, the cache keeps the
// first result.
func (c *Cache) put(k cacheKey, m *RGB) {
	if c == nil {
		return
	}
	size := int64(len(m.Pix) + len(k.path) + entryBytes)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.images[k] != nil {
		return
	}
	if c.used+size > c.limit {
		c.full = true
		return
	}
	c.images[k] = m
	c.used += size
}
