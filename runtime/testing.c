/* The simulated machine of levee/testing.h: a thin face over io_sim and the crash hook. */
#include "levee/testing.h"
#include "runtime/context.h"

static struct sim_faults faults_of(const struct levee_sim_options *o)
{
    return (struct sim_faults){
        .seed = o->seed,
        .crash_at_step = o->crash_at_step,
        .keep_per_mille = o->keep_per_mille,
        .garble_per_mille = o->garble_per_mille,
        .fail_at_step = o->fail_at_step,
        .fail_errno = o->fail_errno,
        .capacity_bytes = o->capacity_bytes,
    };
}

int levee_sim_new(struct levee_testing **ret, const struct levee_sim_options *options,
                  struct levee_error *err)
{
    struct sim_faults f = faults_of(options);
    struct levee_testing *t = mem_zalloc(sizeof *t);
    int code = t ? io_sim_new(&f, &t->io, err) : err_nomem(err, sizeof *t);

    if (code || !t) {
        mem_free(t);
        return code;
    }
    if (options->wall_ms) {
        io_sim_set_wall(t->io, options->wall_ms);
    }
    *ret = t;
    return LEVEE_OK;
}

void levee_sim_free(struct levee_testing *sim)
{
    if (sim) {
        io_free(sim->io);
        mem_free(sim);
    }
}

void levee_sim_set(struct levee_testing *sim, const struct levee_sim_options *options)
{
    struct sim_faults f = faults_of(options);

    io_sim_set_faults(sim->io, &f);
}

bool levee_sim_crashed(const struct levee_testing *sim)
{
    return io_sim_crashed(sim->io);
}

void levee_sim_power_loss(struct levee_testing *sim)
{
    io_sim_power_loss(sim->io);
}

void levee_sim_kill(struct levee_testing *sim)
{
    io_sim_kill(sim->io);
}

void levee_sim_run_ms(struct levee_testing *sim, uint64_t ms)
{
    io_sim_run(sim->io, sim->io->ops->now_ns(sim->io) + ms * 1000000u);
}

int64_t levee_sim_wall_ms(const struct levee_testing *sim)
{
    return sim->io->ops->wall_ms(sim->io);
}

uint64_t levee_sim_steps(const struct levee_testing *sim)
{
    return io_sim_steps(sim->io);
}

uint8_t *levee_sim_read(struct levee_testing *sim, const char *path, size_t *ret_len)
{
    struct buf b = {0};

    if (io_read_file(sim->io, path, SIZE_MAX / 4, &b, NULL) != LEVEE_OK) {
        buf_release(&b);
        return NULL;
    }
    *ret_len = b.len;
    return b.data ? b.data : mem_zalloc(1);
}

void levee_sim_free_bytes(uint8_t *bytes)
{
    mem_free(bytes);
}

static void at_point(enum crash_point point, void *arg)
{
    struct levee_testing *t = arg;

    if (!t) {
        return;
    }
    t->hook(crash_point_name(point), t->hook_arg);
}

int levee_testing_crash_points(struct levee_testing **ret,
                               void (*hook)(const char *name, void *arg), void *arg,
                               struct levee_error *err)
{
    struct levee_testing *t = mem_zalloc(sizeof *t);
    if (!t) {
        return err_nomem(err, sizeof *t);
    }
    int code = io_posix_new(&t->io, err);
    if (code) {
        mem_free(t);
        return code;
    }
    t->hook = hook;
    t->hook_arg = arg;
    t->io->crash_hook = at_point;
    t->io->crash_arg = t;
    *ret = t;
    return LEVEE_OK;
}

const char *const *levee_crash_point_names(size_t *ret_count)
{
    static const char *const names[] = {
#define POINT_NAME(name) #name,
        CRASH_POINTS(POINT_NAME)
#undef POINT_NAME
    };

    *ret_count = ARRAY_LEN(names);
    return names;
}
