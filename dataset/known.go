package dataset

import (
	"slices"

	"github.com/sptune/spt/internal/option"
)

// Known describes a data set of a published benchmark.
type Known struct {
	Name    string // name in the code of the benchmark, such as "cifar" or "cub"
	Group   string // "vtab-natural", "vtab-specialized", "vtab-structured" or "fgvc"
	Classes int    // number of classes
	Title   string // what the images show
}

// KnownSets returns the data sets of VTAB-1k (Zhai et al., arXiv 1910.04867) and FGVC (Jia et al.,
// Visual Prompt Tuning, arXiv 2203.12119). The names and class counts of VTAB-1k match the lists
// that NOAH, FacT and SPT share.
//
// Oxford Flowers, with 102 classes, is in both benchmarks. oxford_flowers102 is the VTAB-1k subset
// of 1000 images, in the layout vtab. oxford_flowers is the whole data set, in the layout fgvc.
func KnownSets() []Known { return slices.Clone(knownSets) }

var knownSets = []Known{
	{"cifar", "vtab-natural", 100, "CIFAR-100"},
	{"caltech101", "vtab-natural", 102, "Caltech-101, with its background class"},
	{"dtd", "vtab-natural", 47, "Describable Textures"},
	{"oxford_flowers102", "vtab-natural", 102, "Oxford Flowers 102, VTAB-1k subset"},
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
	{"oxford_flowers", "fgvc", 102, "Oxford Flowers 102, all images"},
}

// FindKnown returns the data set of [KnownSets] with the given name. It returns an error that lists
// all names if the name is unknown.
func FindKnown(name string) (Known, error) {
	var names []string
	for _, k := range knownSets {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	return Known{}, option.Unknown("task", "task", name, names)
}
