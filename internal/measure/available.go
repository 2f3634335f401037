package measure

// Available returns the resident memory that this process may have, in bytes: what it has, and what
// the system can give. On Linux the limits of cgroups count, which containers and Slurm set. known
// is false if the system does not tell.
func Available() (bytes int64, known bool) { return available() }
