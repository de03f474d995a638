/*
 * levee streams: what can be done with one. Included by levee/levee.h, which has the rules for
 * functions, uids and options; programs include that.
 */
#ifndef LEVEE_STREAMS_H
#define LEVEE_STREAMS_H

#include "levee/levee.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ transforms */

/* One form serves map (emit one), flat_map (emit any number) and filter (return 1 keep, 0 drop).
 * Thread: worker. */
typedef int (*levee_record_fn)(levee_output *out, const struct levee_record *in, void *arg);
/* The same for hot paths: n records at a time; a failed call is repeated record by record (n = 1).
 */
typedef int (*levee_records_fn)(levee_output *out, const struct levee_record *in, size_t n,
                                void *arg);

LEVEE_API levee_stream *levee_map_at(levee_stream *s, levee_record_fn fn, void *arg,
                                     const char *file, int line);
LEVEE_API levee_stream *levee_flat_map_at(levee_stream *s, levee_record_fn fn, void *arg,
                                          const char *file, int line);
LEVEE_API levee_stream *levee_flat_map_many_at(levee_stream *s, levee_records_fn fn, void *arg,
                                               const char *file, int line);
LEVEE_API levee_stream *levee_filter_at(levee_stream *s, levee_record_fn fn, void *arg,
                                        const char *file, int line);
/* Replaces the value, keeps key (and partition): emit exactly one record; its key is ignored. */
LEVEE_API levee_stream *levee_map_values_at(levee_stream *s, levee_record_fn fn, void *arg,
                                            const char *file, int line);
/* The same with any number of records: each is a value under the key of the record given. */
LEVEE_API levee_stream *levee_flat_map_values_at(levee_stream *s, levee_record_fn fn, void *arg,
                                                 const char *file, int line);
/* Calls fn once per partition and batch with all its records, also with none (n = 0; a batch that
 * is not run has no partitions). Emits any number. The records fail together: without a retry that
 * succeeds each becomes a dead letter of its own. A partition is held in memory for the call. */
LEVEE_API levee_stream *levee_map_partitions_at(levee_stream *s, levee_records_fn fn, void *arg,
                                                const char *file, int line);
/* One record without key per partition and batch, also for one without records: its value holds the
 * partition's records in order, read with levee_glom_next. */
LEVEE_API levee_stream *levee_glom_at(levee_stream *s, const char *file, int line);
/* Takes the next record off the front of a glom's value; false at the end. Its key and value are
 * views into the value. */
LEVEE_API bool levee_glom_next(struct levee_slice *glom, struct levee_record *ret);
/* Keeps the keys and gives every record the same 64-bit value: words → (word, 1). */
LEVEE_API levee_stream *levee_map_to_i64_at(levee_stream *s, int64_t value, const char *file,
                                            int line);
/* Moves records to n partitions in turns: record i of partition p goes to partition (p + i) mod n.
 * Then workers share evenly what came unevenly. Only where records lie changes. */
LEVEE_API levee_stream *levee_repartition_at(levee_stream *s, uint32_t n, const char *file,
                                             int line);
/* The same to the partition that fn returns: 0 … partitions - 1, anything else is a failed call.
 * Within a partition records keep the order of (old partition, record). Thread: worker. */
typedef int (*levee_partitioner_fn)(const struct levee_record *in, uint32_t partitions, void *arg);
LEVEE_API levee_stream *levee_repartition_by_at(levee_stream *s, uint32_t n,
                                                levee_partitioner_fn fn, void *arg,
                                                const char *file, int line);
/* Gives the operator by key or transform that has just been built another number of partitions than
 * the option `partitions`, and returns it: levee_partitions(levee_group_by_key(s), 3). Before
 * anything is built upon it. May change between starts: keys are dealt to 128 key groups, whose
 * state stays where it is; with more than 128 partitions some are empty. */
LEVEE_API levee_stream *levee_partitions_at(levee_stream *s, uint32_t n, const char *file,
                                            int line);
/* Streams of one context, in the order given. */
LEVEE_API levee_stream *levee_union_at(levee_stream *const *streams, size_t n, const char *file,
                                       int line);
/* One record per batch: its number of records, as i64 without key; 0 for an empty batch. */
LEVEE_API levee_stream *levee_count_at(levee_stream *s, const char *file, int line);
#define levee_map(s, fn, arg)           levee_map_at(s, fn, arg, LEVEE_AT)
#define levee_flat_map(s, fn, arg)      levee_flat_map_at(s, fn, arg, LEVEE_AT)
#define levee_flat_map_many(s, fn, arg) levee_flat_map_many_at(s, fn, arg, LEVEE_AT)
#define levee_filter(s, fn, arg)        levee_filter_at(s, fn, arg, LEVEE_AT)
#define levee_map_values(s, fn, arg)    levee_map_values_at(s, fn, arg, LEVEE_AT)
#define levee_map_to_i64(s, value)      levee_map_to_i64_at(s, value, LEVEE_AT)
#define levee_union(streams, n)         levee_union_at(streams, n, LEVEE_AT)
#define levee_count(s)                  levee_count_at(s, LEVEE_AT)

#define levee_flat_map_values(s, fn, arg)   levee_flat_map_values_at(s, fn, arg, LEVEE_AT)
#define levee_map_partitions(s, fn, arg)    levee_map_partitions_at(s, fn, arg, LEVEE_AT)
#define levee_glom(s)                       levee_glom_at(s, LEVEE_AT)
#define levee_repartition(s, n)             levee_repartition_at(s, n, LEVEE_AT)
#define levee_repartition_by(s, n, fn, arg) levee_repartition_by_at(s, n, fn, arg, LEVEE_AT)
#define levee_partitions(s, n)              levee_partitions_at(s, n, LEVEE_AT)

/*
 * A reducer folds values into an accumulator of `size` bytes (8-byte aligned, zeroed before
 * create). It must be associative: merge(a, b) after adds equals one long run of adds in
 * (partition, record) order. finish emits the result (exactly one record). `remove` undoes an add
 * or merge, for windows with an inverse; NULL if there is none. All deterministic. Thread: worker.
 * Accumulators may point to memory from levee_alloc(out): it lives as long as the batch.
 */
struct levee_reducer {
    int version; /* 1 */
    size_t size;
    int (*create)(levee_output *out, void *acc, struct levee_slice value,
                  void *arg); /* from the first value */
    int (*add)(levee_output *out, void *acc, struct levee_slice value, void *arg);
    int (*merge)(levee_output *out, void *acc, const void *other, void *arg);
    int (*remove)(levee_output *out, void *acc, const void *other, void *arg);
    int (*finish)(levee_output *out, struct levee_slice key, const void *acc, void *arg);
    void *arg;
};
extern LEVEE_API const struct levee_reducer levee_count_values, levee_sum_i64, levee_min_i64,
    levee_max_i64, levee_avg_i64, levee_sum_f64, levee_min_f64, levee_max_f64, levee_avg_f64,
    levee_concat;

/* The whole batch to one record without key; an empty batch gives none. The reducer struct is
 * copied. */
LEVEE_API levee_stream *levee_reduce_at(levee_stream *s, const struct levee_reducer *r,
                                        const char *file, int line);
/* One record per key of the batch, combined before the shuffle. */
LEVEE_API levee_stream *levee_reduce_by_key_at(levee_stream *s, const struct levee_reducer *r,
                                               const char *file, int line);
/* One record (value, i64 count) per distinct value of the batch; the records' own keys are ignored.
 * A stream whose elements are keys, such as words, is counted by levee_reduce_by_key(s,
 * &levee_count_values). */
LEVEE_API levee_stream *levee_count_by_value_at(levee_stream *s, const char *file, int line);
/* levee_reduce_by_key, under the name for reducers whose result has another type than the values:
 * create, add and merge are Spark's createCombiner, mergeValue and mergeCombiners. */
LEVEE_API levee_stream *levee_combine_by_key_at(levee_stream *s, const struct levee_reducer *r,
                                                const char *file, int line);
/* One record per key; the value is a sequence read with levee_group_next; values keep arrival
 * order. */
LEVEE_API levee_stream *levee_group_by_key_at(levee_stream *s, const char *file, int line);
#define levee_reduce(s, r)         levee_reduce_at(s, r, LEVEE_AT)
#define levee_reduce_by_key(s, r)  levee_reduce_by_key_at(s, r, LEVEE_AT)
#define levee_group_by_key(s)      levee_group_by_key_at(s, LEVEE_AT)
#define levee_count_by_value(s)    levee_count_by_value_at(s, LEVEE_AT)
#define levee_combine_by_key(s, r) levee_combine_by_key_at(s, r, LEVEE_AT)
/* Takes the next value off the front of a group's value; false at the end. */
LEVEE_API bool levee_group_next(struct levee_slice *group, struct levee_slice *ret_value);

/*
 * Two streams by key. The value of each record has two sides, the left one from a and the right one
 * from b, taken apart by levee_sides. Keys come in first arrival, those of a first.
 */
/* One record per key of either: each side is a group, read with levee_group_next, without values
 * where the stream has none. */
LEVEE_API levee_stream *levee_cogroup_at(levee_stream *a, levee_stream *b, const char *file,
                                         int line);
enum levee_join {
    LEVEE_INNER = 0,
    LEVEE_LEFT_OUTER, /* also values of a without one of b: the right side is absent */
    LEVEE_RIGHT_OUTER,
    LEVEE_FULL_OUTER
};
/* One record per pair of values of one key; in the order of a's values, for each in that of b's. An
 * absent side and a side whose value is absent look the same. */
LEVEE_API levee_stream *levee_join_at(levee_stream *a, levee_stream *b, enum levee_join kind,
                                      const char *file, int line);
#define levee_cogroup(a, b)    levee_cogroup_at(a, b, LEVEE_AT)
#define levee_join(a, b, kind) levee_join_at(a, b, kind, LEVEE_AT)
/* Both sides of the value of a join or cogroup, as views into it; data == NULL: absent. false: it
 * is not such a value. */
LEVEE_API bool levee_sides(struct levee_slice value, struct levee_slice *ret_left,
                           struct levee_slice *ret_right);

/*
 * Keyed state. The function is called once per key that has values in the batch (or for every key
 * that has state, with .every_key) with all its values in order and the state of the key. It may
 * set or remove the state; after the call the key's state, if there is one, is emitted as (key,
 * state).
 */
typedef int (*levee_update_fn)(levee_output *out, levee_state *state, struct levee_slice key,
                               const struct levee_slice *values, size_t n, void *arg);
struct levee_state_options {
    uint32_t version; /* of the state's format; 0: 1 */
    bool every_key;
    /* Initial state, for keys never seen before: (key, value) pairs, copied. */
    const struct levee_record *initial;
    size_t initial_count;
};
LEVEE_API levee_stream *levee_update_state_by_key_at(levee_stream *s, const char *uid,
                                                     const struct levee_state_options *options,
                                                     levee_update_fn fn, void *arg,
                                                     const char *file, int line);
#define levee_update_state_by_key(s, uid, ...)                                                     \
    levee_update_state_by_key_at(s, uid, __VA_ARGS__, LEVEE_AT)
/*
 * The same with one call per partition and batch, also for a partition without keys: the function
 * takes the keys one after the other with levee_update_next, and may keep what it likes between
 * them. State of keys that it does not take stays as it is. After the call the state of every key
 * is emitted. A call that fails has changed no state; the values of all its keys become dead
 * letters. What a partition is depends on the option `partitions`: a function whose result does,
 * too, has results that do.
 */
typedef struct levee_updates levee_updates;
struct levee_update {
    struct levee_slice key;
    const struct levee_slice *values; /* in arrival order; live as long as the batch */
    size_t n;
    levee_state *state; /* until the next call of levee_update_next */
};
/* The next key of the partition; false: there is none, or no memory, which ends the batch. */
LEVEE_API bool levee_update_next(levee_updates *updates, struct levee_update *ret);
typedef int (*levee_update_partition_fn)(levee_output *out, levee_updates *updates, void *arg);
LEVEE_API levee_stream *levee_update_state_by_partition_at(
    levee_stream *s, const char *uid, const struct levee_state_options *options,
    levee_update_partition_fn fn, void *arg, const char *file, int line);
#define levee_update_state_by_partition(s, uid, ...)                                               \
    levee_update_state_by_partition_at(s, uid, __VA_ARGS__, LEVEE_AT)
/* false: none. The view lasts until the state is changed or the call returns: emit copies of it. */
LEVEE_API bool levee_state_get(const levee_state *state, struct levee_slice *ret_value);
LEVEE_API int levee_state_set(levee_state *state, struct levee_slice value); /* copied */
LEVEE_API int levee_state_set_i64(levee_state *state, int64_t value);
LEVEE_API void levee_state_remove(levee_state *state);
/*
 * mapWithState. The function is called once per record, in arrival order within a key, with the
 * state of the record's key; it may set or remove the state and emit any number of records.
 *
 * With a time-out, a key that has had no record for longer than timeout_ms of batch time is timed
 * out by the first batch after that, which is run even without input: the function is called a last
 * time, with value == NULL and levee_state_timing_out(state), and the state is gone when it has
 * returned (or has become a dead letter). It can still be read, but not set: STATE. A record in the
 * same batch wins over the time-out; a key of the initial state counts from the first batch.
 * Time-outs come after the records of their key group, by last touch, then key.
 */
typedef int (*levee_map_state_fn)(levee_output *out, levee_state *state, struct levee_slice key,
                                  const struct levee_slice *value, void *arg);
struct levee_map_state_options {
    uint32_t version;    /* of the state's format; 0: 1 */
    uint32_t timeout_ms; /* 0: never. May change between starts: it counts from the last record */
    /* Initial state, for keys never seen before: (key, value) pairs, copied. */
    const struct levee_record *initial;
    size_t initial_count;
};
LEVEE_API levee_stream *levee_map_with_state_at(levee_stream *s, const char *uid,
                                                const struct levee_map_state_options *options,
                                                levee_map_state_fn fn, void *arg, const char *file,
                                                int line);
#define levee_map_with_state(s, uid, ...) levee_map_with_state_at(s, uid, __VA_ARGS__, LEVEE_AT)
/* Is this the call for a key that times out? */
LEVEE_API bool levee_state_timing_out(const levee_state *state);
/* The whole state of a stateful operator as one (key, state) record per key, after each batch; by
 * key group, inside it by hash, then key. A batch is then run at every interval. Costs what the
 * state is large. */
LEVEE_API levee_stream *levee_state_snapshots_at(levee_stream *stateful, const char *file,
                                                 int line);
#define levee_state_snapshots(stateful) levee_state_snapshots_at(stateful, LEVEE_AT)
/* Ready: state += sum of the batch's i64 values. */
LEVEE_API int levee_update_sum_i64(levee_output *out, levee_state *state, struct levee_slice key,
                                   const struct levee_slice *values, size_t n, void *arg);

/* Calls each(arg, key, value) for every key of a stateful operator, in key-group order; stops at
 * the first non-zero return and returns it. Only while no batch can run: before levee_start is
 * useless, after levee_await returned is the time. Errors: STATE, NOTFOUND. */
LEVEE_API int levee_state_each(levee_context *ctx, const char *uid,
                               int (*each)(void *arg, struct levee_slice key,
                                           struct levee_slice value),
                               void *arg, struct levee_error *err);

/*
 * Windows. A window of length L that is due at batch time t holds the batches with time in
 * (t - L, t]; it is due at the multiples of its slide, and what is built upon it has output only
 * then. Both are multiples of the batch interval and of the parent's slide, anything else is GRAPH,
 * as are parents with different slides. Before the first L have passed a window is shorter. What is
 * in a window is state: it needs a uid, survives restarts, and lies in every checkpoint.
 */
struct levee_window {
    uint32_t length_ms, slide_ms;
    bool inverse; /* the reducer's remove takes out what leaves: cost follows what changes. Keys
                     stay until filter drops them, whatever the inverse leaves of them */
    levee_record_fn filter; /* of results: return 1 keep, 0 drop; NULL: keeps all */
    void *arg;              /* of filter */
    uint32_t partitions;    /* 0: the context's */
    uint32_t version;       /* of the state's format; 0: 1 */
};
/* The records of the batches in the window, oldest batch first, in one partition. */
LEVEE_API levee_stream *levee_window_at(levee_stream *s, const char *uid, uint32_t length_ms,
                                        uint32_t slide_ms, const char *file, int line);
/* Keeps the stream's records of the last duration_ms for levee_slice_each. */
LEVEE_API levee_stream *levee_remember_at(levee_stream *s, const char *uid, uint32_t duration_ms,
                                          const char *file, int line);
/* Calls each(arg, batch time, record) for what the levee_remember of this uid holds of the batches
 * with time in [from_ms, to_ms] (none if it is backwards), both rounded down to its slide, oldest
 * first; stops at the first non-zero return and returns it. Records are views until each returns.
 * Thread: any, not one of ours. Blocks: until the batch at hand is computed. Errors: STATE (before
 * start), NOTFOUND, INVALID.
 */
typedef int (*levee_slice_fn)(void *arg, int64_t time_ms, const struct levee_record *record);
LEVEE_API int levee_slice_each(levee_context *ctx, const char *uid, int64_t from_ms, int64_t to_ms,
                               levee_slice_fn each, void *arg, struct levee_error *err);
#define levee_remember(s, uid, duration_ms) levee_remember_at(s, uid, duration_ms, LEVEE_AT)
/* One record per key of the window. The reducer's accumulators are kept as bytes (at most 4096):
 * they may not hold pointers, so levee_concat is not for windows. */
LEVEE_API levee_stream *levee_reduce_by_key_and_window_at(levee_stream *s, const char *uid,
                                                          const struct levee_reducer *r,
                                                          const struct levee_window *window,
                                                          const char *file, int line);
/* The window to one record without key; none while no batch in it had records (with inverse: ever).
 */
LEVEE_API levee_stream *levee_reduce_by_window_at(levee_stream *s, const char *uid,
                                                  const struct levee_reducer *r,
                                                  const struct levee_window *window,
                                                  const char *file, int line);
/* The number of records in the window, as i64 without key; nothing until a first record was seen.
 */
LEVEE_API levee_stream *levee_count_by_window_at(levee_stream *s, const char *uid,
                                                 uint32_t length_ms, uint32_t slide_ms,
                                                 const char *file, int line);
/* As levee_group_by_key: values in the order of batches, then of arrival. */
LEVEE_API levee_stream *levee_group_by_key_and_window_at(levee_stream *s, const char *uid,
                                                         const struct levee_window *window,
                                                         const char *file, int line);
/* One record (value, i64 count) per distinct value of the window. */
LEVEE_API levee_stream *levee_count_by_value_and_window_at(levee_stream *s, const char *uid,
                                                           const struct levee_window *window,
                                                           const char *file, int line);
#define levee_count_by_value_and_window(s, uid, ...)                                               \
    levee_count_by_value_and_window_at(s, uid, __VA_ARGS__, LEVEE_AT)
#define levee_window(s, uid, length_ms, slide_ms)                                                  \
    levee_window_at(s, uid, length_ms, slide_ms, LEVEE_AT)
#define levee_reduce_by_key_and_window(s, uid, r, ...)                                             \
    levee_reduce_by_key_and_window_at(s, uid, r, __VA_ARGS__, LEVEE_AT)
#define levee_reduce_by_window(s, uid, r, ...)                                                     \
    levee_reduce_by_window_at(s, uid, r, __VA_ARGS__, LEVEE_AT)
#define levee_count_by_window(s, uid, length_ms, slide_ms)                                         \
    levee_count_by_window_at(s, uid, length_ms, slide_ms, LEVEE_AT)
#define levee_group_by_key_and_window(s, uid, ...)                                                 \
    levee_group_by_key_and_window_at(s, uid, __VA_ARGS__, LEVEE_AT)

/* ------------------------------------------------------------------ event time */

/*
 * Event time is when a record happened, in ms; batch time is when it was taken up. levee_event_time
 * gives every record its own and keeps a *watermark*: the highest time that was seen up to the
 * batch before, less lateness_ms. It never goes back, has one value per batch, and that value is
 * logged: a replay sees the same one. A record below it is late.
 *
 * Where streams meet, the lowest watermark counts. One that has had no records for idle_ms of batch
 * time does not count until it has some again; of those that are all idle the highest one counts.
 * What has event time keeps it through everything that hands records on (map, filter, repartition,
 * union, window, map_with_state …); operators that make one record of many by key (reduce_by_key,
 * join …) make records without: give them a time of their own.
 *
 * Times lie in ±2^61 ms. A function that gives another one has failed.
 */
enum levee_late {
    LEVEE_LATE_DEFAULT = 0, /* levee_event_time: it goes on, for windows to judge by their own
                               allowed lateness. Windows: it is dropped */
    LEVEE_LATE_DROP,        /* counted in levee_metrics, as are the next two */
    LEVEE_LATE_SIDE,        /* into the stream that levee_late gives */
    LEVEE_LATE_DEAD_LETTER  /* with the code LATE */
};
/* The time of a record into *ret_time_ms. Thread: worker. */
typedef int (*levee_time_fn)(const struct levee_record *in, int64_t *ret_time_ms, void *arg);
struct levee_event_time_options {
    uint64_t lateness_ms; /* how much later than a later one a record may come */
    uint64_t idle_ms;     /* without records for so long it holds nobody up; 0: it always does */
    bool idle_clock; /* while idle its watermark follows the batch time, less lateness_ms: for event
                        times that are those of the clock */
    enum levee_late late;
};
/* fn NULL: records have the time that their source gave them. The uid stands for the watermark,
 * which is part of every checkpoint. */
LEVEE_API levee_stream *levee_event_time_at(levee_stream *s, const char *uid, levee_time_fn fn,
                                            const struct levee_event_time_options *options,
                                            void *arg, const char *file, int line);
#define levee_event_time(s, uid, ...) levee_event_time_at(s, uid, __VA_ARGS__, LEVEE_AT)
/* The late records of a levee_event_time or levee_event_window with .late = LEVEE_LATE_SIDE, as
 * they came. */
LEVEE_API levee_stream *levee_late_at(levee_stream *s, const char *file, int line);
#define levee_late(s) levee_late_at(s, LEVEE_AT)
/* The watermark of the operator at hand, in functions of levee_event_window and
 * levee_process_by_key; INT64_MIN: there is none yet. */
LEVEE_API int64_t levee_watermark(const levee_output *out);

/*
 * Windows of event time, by key. A window of length L holds the records with time in [start,
 * start + L); starts are the multiples of the slide (of the length, if there is none). A session
 * holds records of a key of which none comes gap_ms or more after the one before: it ends gap_ms
 * after its last.
 *
 * A window fires when the watermark has reached its end, before the records of that batch are
 * taken: one record per key and window, its time the window's last ms (end - 1). With early_ms,
 * windows that are open fire every so many ms of batch time if they have changed; with
 * allowed_lateness_ms a window is kept that much longer, and fires again at once when it gets a
 * record. Each firing gives the whole window as it is, and replaces what was given before.
 *
 * What is in windows is state: by uid, in every checkpoint. The lengths are stored with it, and a
 * start with others is refused (STATE_VERSION). The reducer's accumulators are kept as bytes (at
 * most 4096): they may not hold pointers, so levee_concat is not for windows.
 */
enum levee_firing { LEVEE_FIRED_ON_TIME = 0, LEVEE_FIRED_EARLY, LEVEE_FIRED_LATE };
struct levee_event_window {
    uint64_t length_ms;
    uint64_t slide_ms; /* 0: as long as the length (tumbling) */
    uint64_t gap_ms;   /* instead of both: sessions */
    uint64_t allowed_lateness_ms;
    uint32_t early_ms;    /* 0: no early firing */
    enum levee_late late; /* of records whose windows are all gone */
    bool bounds; /* values are windows, taken apart with levee_event_window_of; otherwise what the
                    reducer gives */
    uint32_t partitions; /* 0: the context's */
    uint32_t version;    /* of the state's format; 0: 1 */
};
struct levee_event_window_info {
    int64_t start_ms, end_ms; /* the first ms in it, the first after it */
    enum levee_firing firing;
    struct levee_slice value; /* what the reducer gave */
};
LEVEE_API levee_stream *levee_event_window_at(levee_stream *s, const char *uid,
                                              const struct levee_reducer *r,
                                              const struct levee_event_window *window,
                                              const char *file, int line);
#define levee_event_window(s, uid, r, ...) levee_event_window_at(s, uid, r, __VA_ARGS__, LEVEE_AT)
/* Takes the value of a window with .bounds apart, as views into it; false: it is not such a value.
 */
LEVEE_API bool levee_event_window_of(struct levee_slice value, struct levee_event_window_info *ret);
/* The window that is being finished, for a reducer's finish; false: none is. Without its value. */
LEVEE_API bool levee_event_window_now(const levee_output *out, struct levee_event_window_info *ret);

/*
 * State and timers by key, for what no other operator does. The function is called once per record,
 * in arrival order within a key; on_timer once per timer of the key that is due. Both may read and
 * change the key's state, set and cancel its timers, and emit any number of records. A call that
 * fails has changed nothing; a timer whose call became a dead letter is over all the same.
 *
 * Timers fire when a batch begins, before its records: those of event time up to the batch's
 * watermark, then those of processing time up to its batch time, each in the order of (time, key)
 * within a key group. A batch is run for them even without input. A timer that on_timer sets fires
 * in the same batch if it is later than the one that fires and due; one that is set to a time
 * already passed fires in the next batch. A key has at most one timer per kind and ms. A drain ends
 * when no timer of event time is due any more.
 */
struct levee_timer {
    int64_t time_ms; /* that it was set to */
    bool processing; /* false: of event time */
};
typedef int (*levee_process_fn)(levee_output *out, levee_state *state,
                                const struct levee_record *in, void *arg);
typedef int (*levee_timer_fn)(levee_output *out, levee_state *state, struct levee_slice key,
                              const struct levee_timer *timer, void *arg);
/* on_timer may be NULL: then no timers can be set. Of the options, every_key is not for it. */
LEVEE_API levee_stream *levee_process_by_key_at(levee_stream *s, const char *uid,
                                                const struct levee_state_options *options,
                                                levee_process_fn fn, levee_timer_fn on_timer,
                                                void *arg, const char *file, int line);
#define levee_process_by_key(s, uid, ...) levee_process_by_key_at(s, uid, __VA_ARGS__, LEVEE_AT)
/* Errors: STATE (there is no on_timer; for event time: the stream has none), INVALID (out of
 * range), LIMIT (more than 4096 of a key), NOMEM. */
LEVEE_API int levee_timer_event(levee_state *state, int64_t time_ms);
LEVEE_API int levee_timer_processing(levee_state *state, int64_t time_ms);
/* Without effect where there is none. */
LEVEE_API void levee_timer_cancel_event(levee_state *state, int64_t time_ms);
LEVEE_API void levee_timer_cancel_processing(levee_state *state, int64_t time_ms);

/* ------------------------------------------------------------------ whole batches */

/*
 * Arbitrary code on batches. The function is called once per batch that is run, also for one
 * without records, with the data set of every stream, and sets *ret to a data set made from them
 * (or to one of them). The data sets live as long as the batch and never change.
 * levee_batch_time(out) is the batch's time, levee_alloc(out) its memory; emitting to `out` has no
 * effect. Failures are those of any function: retried as a whole; then all records of all streams
 * become dead letters, if the options say so. Thread: one worker.
 *
 * The stream has as many partitions as streams[0], or as levee_partitions says. A result with as
 * many keeps them, any other is cut anew, in its order, as evenly as possible.
 *
 *     static int busiest(levee_output *out, const levee_batch *const *in, size_t n,
 *                        const levee_batch **ret, void *arg)
 *     {
 *         const levee_batch *counts = levee_batch_reduce_by_key(in[0], &levee_sum_i64);
 *         *ret = levee_batch_take(levee_batch_sort_by_key(levee_batch_map(counts, swap, NULL),
 *                                                         largest_first, NULL), 10);
 *         return 0;
 *     }
 */
typedef int (*levee_transform_fn)(levee_output *out, const levee_batch *const *in, size_t n,
                                  const levee_batch **ret, void *arg);
LEVEE_API levee_stream *levee_transform_at(levee_stream *const *streams, size_t n,
                                           levee_transform_fn fn, void *arg, const char *file,
                                           int line);
#define levee_transform(streams, n, fn, arg) levee_transform_at(streams, n, fn, arg, LEVEE_AT)
#define levee_transform_with(a, b, fn, arg)                                                        \
    levee_transform_at((levee_stream *const[]){a, b}, 2, fn, arg, LEVEE_AT)

/*
 * Operations on data sets, within levee_transform; each means what the stream's operation of that
 * name does and gives its records in the same order and partitions. Like builders they return NULL
 * on failure and accept NULL: the transform has then failed, with the first failure's code,
 * whatever it returns. In foreach_batch they return NULL: there a batch can only be read.
 */
LEVEE_API const levee_batch *levee_batch_map(const levee_batch *b, levee_record_fn fn, void *arg);
LEVEE_API const levee_batch *levee_batch_flat_map(const levee_batch *b, levee_record_fn fn,
                                                  void *arg);
LEVEE_API const levee_batch *levee_batch_filter(const levee_batch *b, levee_record_fn fn,
                                                void *arg);
LEVEE_API const levee_batch *levee_batch_map_values(const levee_batch *b, levee_record_fn fn,
                                                    void *arg);
LEVEE_API const levee_batch *levee_batch_union(const levee_batch *const *batches, size_t n);
LEVEE_API const levee_batch *levee_batch_reduce_by_key(const levee_batch *b,
                                                       const struct levee_reducer *r);
LEVEE_API const levee_batch *levee_batch_group_by_key(const levee_batch *b);
LEVEE_API const levee_batch *levee_batch_cogroup(const levee_batch *a, const levee_batch *b);
LEVEE_API const levee_batch *levee_batch_join(const levee_batch *a, const levee_batch *b,
                                              enum levee_join kind);
/* Without those whose key and value an earlier record has; the others stay where they are. */
LEVEE_API const levee_batch *levee_batch_distinct(const levee_batch *b);
/* Sorted by key over all partitions, equal keys in their old order; cut evenly into as many.
 * compare is negative, 0 or positive as a comes before, with or after b; NULL: levee_compare_bytes.
 */
typedef int (*levee_compare_fn)(struct levee_slice a, struct levee_slice b, void *arg);
LEVEE_API const levee_batch *levee_batch_sort_by_key(const levee_batch *b, levee_compare_fn compare,
                                                     void *arg);
LEVEE_API int levee_compare_bytes(struct levee_slice a, struct levee_slice b, void *arg);
LEVEE_API int levee_compare_i64(struct levee_slice a, struct levee_slice b, void *arg);
/* The first n records, in partition order, left in their partitions. */
LEVEE_API const levee_batch *levee_batch_take(const levee_batch *b, size_t n);
/* Each record with this probability, without replacement. Seeded by the batch: a replay keeps the
 * same records, and each call in one transform others. */
LEVEE_API const levee_batch *levee_batch_sample(const levee_batch *b, double fraction);
/* A data set of these records, cut as evenly as possible; `like` is any data set of the batch. The
 * array is copied, keys and values must live as long as the batch (levee_alloc). */
LEVEE_API const levee_batch *levee_batch_of(const levee_batch *like,
                                            const struct levee_record *records, size_t n,
                                            uint32_t partitions);

#ifdef __cplusplus
}
#endif
#endif
