package flow

// StoreFootprint returns the bytes that st holds: those charged, and those of
// spare buffers, counted one by one.
func StoreFootprint(st *Store) int {
	n := st.cost
	for _, class := range st.spare {
		for _, buf := range class {
			n += cap(buf)
		}
	}
	return n
}

// StoreNodes returns how many nodes st has made.
func StoreNodes(st *Store) int { return len(st.nodes) - 1 }
