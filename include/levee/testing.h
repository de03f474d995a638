/*
 * levee testing: run a whole context on a simulated disk and clock, single-threaded, from a seed;
 * and check your own sink.
 */
#ifndef LEVEE_TESTING_H
#define LEVEE_TESTING_H

#include "levee/connect.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A simulated machine. Survives the contexts that run on it: free them, then crash it, then run the
 * next one. */
struct levee_testing;
struct levee_sim_options {
    uint64_t seed;
    uint64_t crash_at_step; /* power fails instead of the n-th I/O step; 0: never */
    uint32_t keep_per_mille, garble_per_mille; /* fate of unsynced sectors at a power loss */
    uint64_t fail_at_step;
    int fail_errno;
    uint64_t capacity_bytes;
    int64_t wall_ms; /* what the wall clock of a new machine shows; 0: its own idea */
};
LEVEE_API int levee_sim_new(struct levee_testing **ret, const struct levee_sim_options *options,
                            struct levee_error *err);
LEVEE_API void levee_sim_free(struct levee_testing *sim);
LEVEE_API void levee_sim_set(struct levee_testing *sim, const struct levee_sim_options *options);
LEVEE_API bool levee_sim_crashed(const struct levee_testing *sim);
/* After the contexts were freed: what the power loss (or process death) leaves becomes the disk. */
LEVEE_API void levee_sim_power_loss(struct levee_testing *sim);
LEVEE_API void levee_sim_kill(struct levee_testing *sim);
/* Advances virtual time, running what is due. */
LEVEE_API void levee_sim_run_ms(struct levee_testing *sim, uint64_t ms);
/* The machine's wall clock. */
LEVEE_API int64_t levee_sim_wall_ms(const struct levee_testing *sim);
LEVEE_API uint64_t levee_sim_steps(const struct levee_testing *sim);
/* A file of the simulated disk, copied (free with levee_sim_free_bytes); NULL: none. */
LEVEE_API uint8_t *levee_sim_read(struct levee_testing *sim, const char *path, size_t *ret_len);
LEVEE_API void levee_sim_free_bytes(uint8_t *bytes);

/* Real machine, but `hook` is called with the name of every named durable step (a test kills itself
 * there). */
LEVEE_API int levee_testing_crash_points(struct levee_testing **ret,
                                         void (*hook)(const char *name, void *arg), void *arg,
                                         struct levee_error *err);
LEVEE_API const char *const *levee_crash_point_names(size_t *ret_count);

#ifdef __cplusplus
}
#endif
#endif
