package dataset

import (
	"fmt"
	"slices"
	"strings"
)

// Known is an image set of a published benchmark that has a name.
type Known struct {
	Name    string // name in the code of the benchmark: "cifar", "cub"
	Group   string // "vtab-natural", "vtab-specialized", "vtab-structured" or "fgvc"
	Classes int    // number of classes
	Title   string // what the images show
}

// KnownSets returns the sets of VTAB-1k (Zhai et al., arXiv 1910.04867) and of FGVC (Jia et al.,
// Visual Prompt Tuning, arXiv 2203.12119). The names and class counts of VTAB-1k are those of the
// lists that NOAH, FacT and SPT share. Oxford Flowers, with 102 classes, is in both:
// oxford_flowers102 is VTAB-1k's draw of 1000 images, in the layout vtab, and oxford_flowers is the
// whole set, in the layout fgvc.
func KnownSets() []Known { return slices.Clone(knownSets) }

var knownSets = []Known{
	{"cifar", "vtab-natural", 100, "CIFAR-100"},
	{"caltech101", "vtab-natural", 102, "Caltech-101, with its background class"},
	{"dtd", "vtab-natural", 47, "Describable Textures"},
	{"oxford_flowers102", "vtab-natural", 102, "Oxford Flowers 102, VTAB-1k's draw"},
	{"oxford_iiit_pet", "vtab-natural", 37, "Oxford-IIIT Pet"},
	{"svhn", "vtab-natural", 10, "Street View House Numbers"},
	{"sun397", "vtab-natural", 397, "SUN397 scenes"},
	{"patch_camelyon", "vtab-specialized", 2, "PatchCamelyon: lymph node tissue"},
	{"eurosat", "vtab-specialized", 10, "EuroSAT: land use by satellite"},
	{"resisc45", "vtab-specialized", 45, "RESISC45: scenes by satellite"},
	{"diabetic_retinopathy", "vtab-specialized", 5, "Diabetic Retinopathy: grades"},
	{"clevr_count", "vtab-structured", 8, "CLEVR: number of objects"},
	{"clevr_dist", "vtab-structured", 6, "CLEVR: distance of the closest object"},
	{"dmlab", "vtab-structured", 6, "DeepMind Lab: distance and kind of objects"},
	{"kitti", "vtab-structured", 4, "KITTI: distance of the closest vehicle"},
	{"dsprites_loc", "vtab-structured", 16, "dSprites: position"},
	{"dsprites_ori", "vtab-structured", 16, "dSprites: orientation"},
	{"smallnorb_azi", "vtab-structured", 18, "SmallNORB: azimuth"},
	{"smallnorb_ele", "vtab-structured", 9, "SmallNORB: elevation"},
	{"cub", "fgvc", 200, "CUB-200-2011 birds"},
	{"nabirds", "fgvc", 555, "NABirds"},
	{"stanford_dogs", "fgvc", 120, "Stanford Dogs"},
	{"stanford_cars", "fgvc", 196, "Stanford Cars"},
	{"oxford_flowers", "fgvc", 102, "Oxford Flowers 102, the whole set"},
}

// FindKnown returns the known set of that name. An unknown name is an error that lists the names.
func FindKnown(name string) (Known, error) {
	var names []string
	for _, k := range knownSets {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	return Known{}, fmt.Errorf("task %q is unknown; known: %s", name, strings.Join(names, ", "))
}
