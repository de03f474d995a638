/*
 * The writer on real files and real threads: what the simulator's single thread cannot show. Many
 * appenders at once; a close that meets the helper in the middle of its work; counters that are
 * read while they move. TSan runs this program, too. No loss: everything ends in order.
 */
#include <pthread.h>
#include <unistd.h>

#include "tests/unit/test_wal.h"

static char dir[IO_PATH_MAX];
static struct wal *wal;

static void open_place(void)
{
    const char *tmp = getenv("TMPDIR");

    (void)snprintf(dir, sizeof dir, "%s/levee-wal-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_assert_int_eq(io_posix_new(&io, &err), LEVEE_OK);
}

static void close_place(void)
{
    struct io_list list = {0};
    char path[IO_PATH_MAX];

    ck_assert_int_eq(io->ops->list(io, dir, &list, &err), LEVEE_OK);
    for (size_t i = 0; i < list.count; i++) {
        ck_assert_int_eq(io_path(path, dir, list.items[i].name, &err), LEVEE_OK);
        ck_assert_int_eq(io->ops->unlink(io, path, &err), LEVEE_OK);
    }
    io_list_free(&list);
    ck_assert_int_eq(rmdir(dir), 0);
    io_free(io);
    ck_assert_int_eq(mem_live(), 0);
}

struct owned {
    struct wal_frame frame;
    _Atomic int code; /* 1: not yet */
};

static void owned_done(struct wal_frame *frame, int code)
{
    struct owned *o = frame->owner;

    MUST(atomic_exchange(&o->code, code) == 1);
}

static void append(struct owned *o, const uint8_t *bytes, size_t len, uint64_t seq)
{
    atomic_store(&o->code, 1);
    o->frame = (struct wal_frame){.type = WAL_BLOCK,
                                  .seq = seq,
                                  .payload = {slice_of(bytes, len), slice_of(NULL, 0)},
                                  .done = owned_done,
                                  .owner = o};
    MUST(wal_append(wal, &o->frame, NULL) == LEVEE_OK);
}

/* ---- many at once ---- */

#define THREADS 4
#define EACH    600

static struct owned owned[THREADS][EACH];
static const uint8_t payload[3000];

static void *appender(void *arg)
{
    struct owned *mine = arg;
    uint64_t rng = (uint64_t)(mine - owned[0]);

    for (int i = 0; i < EACH; i++) {
        append(&mine[i], payload, rng_next(&rng) % sizeof payload, (uint64_t)i);
        if (i % 50 == 0) {
            wal_trim(wal, wal_durable_lsn(wal) / 2);
        }
    }
    return NULL;
}

static bool all_done(void *arg)
{
    (void)arg;
    return wal_durable_lsn(wal) == (uint64_t)THREADS * EACH;
}

START_TEST(appenders_from_many_threads)
{
    struct wal_options opt = {
        .dir = dir, .context = ref_context, .segment_bytes = 256u << 10, .idle_seal_ns = 1000000};
    pthread_t threads[THREADS];
    struct wal_stats stats;
    struct wal_facts facts;

    open_place();
    ck_assert_int_eq(wal_open(io, &opt, NULL, &wal, &err), LEVEE_OK);
    for (int t = 0; t < THREADS; t++) {
        ck_assert_int_eq(pthread_create(&threads[t], NULL, appender, owned[t]), 0);
    }
    uint64_t groups = 0;
    while (!all_done(NULL)) { /* anybody may look at any time */
        wal_stats(wal, &stats);
        MUST(stats.groups >= groups);
        groups = stats.groups;
        MUST(wal_bytes(wal) >= 256u << 10);
        MUST(wal_witnessed_lsn(wal) <= wal_durable_lsn(wal));
        MUST(wal_durable_lsn(wal) < wal_next_lsn(wal));
    }
    for (int t = 0; t < THREADS; t++) {
        ck_assert_int_eq(pthread_join(threads[t], NULL), 0);
    }
    wal_close(wal);
    for (int t = 0; t < THREADS; t++) {
        for (int i = 0; i < EACH; i++) {
            MUST(atomic_load(&owned[t][i].code) == LEVEE_OK);
            MUST(i == 0 || owned[t][i].frame.lsn > owned[t][i - 1].frame.lsn);
        }
    }
    ck_assert_int_eq(wal_scan(io, dir, &ref_context, 0, &facts, &err), LEVEE_OK);
    ck_assert_int_eq(facts.bad.kind, WAL_BAD_NONE);
    ck_assert_uint_eq(facts.next_lsn, THREADS * EACH + 1);
    ck_assert_uint_eq(facts.witnessed_lsn, THREADS * EACH); /* closing sealed */
    ck_assert_uint_le(facts.first_lsn, THREADS * EACH / 2 + 1);
    wal_facts_release(&facts);
    close_place();
}
END_TEST

/* ---- closing while the helper works ---- */

/* The helper is held in its first write until the log lane has ended. */
static struct {
    const struct io_ops *real;
    struct io_ops ops;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    pthread_t opener, helper;
    bool has_helper, let_go, full; /* full: no room for a segment of the log lane */
    struct io_lane *ended;
    int posts_to_the_ended;
} hold = {.mutex = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

static int hold_pwritev(struct io_file *f, const struct iovec *iov, int count, uint64_t offset,
                        struct levee_error *e)
{
    (void)pthread_mutex_lock(&hold.mutex);
    if (io_is_temp(f->path) && !pthread_equal(pthread_self(), hold.opener) && !hold.has_helper) {
        hold.has_helper = true;
        hold.helper = pthread_self();
        (void)pthread_cond_broadcast(&hold.cond);
        while (!hold.let_go) {
            (void)pthread_cond_wait(&hold.cond, &hold.mutex);
        }
    }
    (void)pthread_mutex_unlock(&hold.mutex);
    return hold.real->pwritev(f, iov, count, offset, e);
}

static int hold_open(struct io *any, const char *path, int flags, struct io_file **ret,
                     struct levee_error *e)
{
    (void)pthread_mutex_lock(&hold.mutex);
    bool full = hold.full && (flags & IO_CREATE) && hold.has_helper &&
                !pthread_equal(pthread_self(), hold.helper);
    (void)pthread_mutex_unlock(&hold.mutex);
    return full ? err_set(e, LEVEE_ENOSPACE, "full") : hold.real->open(any, path, flags, ret, e);
}

static void hold_lane_close(struct io_lane *lane)
{
    hold.real->lane_close(lane);
    (void)pthread_mutex_lock(&hold.mutex);
    hold.ended = hold.ended ? hold.ended : lane; /* the log's: the first */
    hold.let_go = true;
    (void)pthread_cond_broadcast(&hold.cond);
    (void)pthread_mutex_unlock(&hold.mutex);
}

static void hold_lane_post(struct io_lane *lane, struct io_task *task)
{
    (void)pthread_mutex_lock(&hold.mutex);
    bool ended = lane == hold.ended;
    hold.posts_to_the_ended += ended;
    (void)pthread_mutex_unlock(&hold.mutex);
    if (!ended) {
        hold.real->lane_post(lane, task);
    }
}

/* More than the first segment holds, while the helper is held: the log lane wants the spare that is
 * being made, and the close finds it wanting. */
static void close_with_a_held_helper(bool full, int expected)
{
    static struct owned o[8];
    static const uint8_t big[40000];
    struct wal_options opt = {
        .dir = dir, .context = ref_context, .segment_bytes = WAL_SEGMENT_MIN, .spares = 1};

    open_place();
    hold.real = io->ops;
    hold.ops = *io->ops;
    hold.ops.open = hold_open;
    hold.ops.pwritev = hold_pwritev;
    hold.ops.lane_close = hold_lane_close;
    hold.ops.lane_post = hold_lane_post;
    hold.opener = pthread_self();
    hold.full = full;
    io->ops = &hold.ops;
    ck_assert_int_eq(wal_open(io, &opt, NULL, &wal, &err), LEVEE_OK);
    (void)pthread_mutex_lock(&hold.mutex);
    while (!hold.has_helper) {
        (void)pthread_cond_wait(&hold.cond, &hold.mutex);
    }
    (void)pthread_mutex_unlock(&hold.mutex);
    for (size_t i = 0; i < ARRAY_LEN(o); i++) {
        append(&o[i], big, sizeof big, i);
    }
    wal_close(wal);
    ck_assert_int_eq(hold.posts_to_the_ended, 0);
    ck_assert_int_eq(atomic_load(&o[0].code), LEVEE_OK);
    ck_assert_int_eq(atomic_load(&o[ARRAY_LEN(o) - 1].code), expected);
    close_place();
}

START_TEST(a_close_meets_the_helper_at_work)
{
    close_with_a_held_helper(false, LEVEE_OK); /* closing writes what is queued */
}
END_TEST

START_TEST(a_close_without_room_meets_the_helper_at_work)
{
    close_with_a_held_helper(true, LEVEE_EWAL_FAILED);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_lanes");
    TCase *t = tcase_create("lanes");

    tcase_add_test(t, appenders_from_many_threads);
    tcase_add_test(t, a_close_meets_the_helper_at_work);
    tcase_add_test(t, a_close_without_room_meets_the_helper_at_work);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
