/*
 * Every gap between two durable steps has a name here. Tests kill the process (or cut the power of
 * the simulated disk) at each of them, and a test fails when one is never reached.
 */
#ifndef LEVEE_IO_CRASH_POINTS_H
#define LEVEE_IO_CRASH_POINTS_H

#define CRASH_POINTS(X)                                                                            \
    X(PUBLISH_AFTER_WRITE)                                                                         \
    X(PUBLISH_AFTER_SYNC)                                                                          \
    X(PUBLISH_AFTER_RENAME)                                                                        \
    X(PUBLISH_AFTER_DIR_SYNC)                                                                      \
    X(DIR_AFTER_LOCK)                                                                              \
    X(DIR_AFTER_MKDIR)                                                                             \
    X(DIR_BEFORE_FORMAT)                                                                           \
    X(DIR_AFTER_FORMAT)                                                                            \
    X(SEGMENT_AFTER_ZERO)                                                                          \
    X(SEGMENT_AFTER_HEADER)                                                                        \
    X(SEGMENT_AFTER_SYNC)                                                                          \
    X(SEGMENT_AFTER_RENAME)                                                                        \
    X(SEGMENT_AFTER_DIR_SYNC)                                                                      \
    X(RECYCLE_AFTER_IMPRINT)                                                                       \
    X(RECYCLE_AFTER_HEADER)                                                                        \
    X(RECYCLE_AFTER_SYNC)                                                                          \
    X(RECYCLE_AFTER_RENAME)                                                                        \
    X(RECYCLE_AFTER_DIR_SYNC)                                                                      \
    X(WAL_BEFORE_WRITE)                                                                            \
    X(WAL_AFTER_WRITE)                                                                             \
    X(WAL_AFTER_SYNC)                                                                              \
    X(WAL_BEFORE_ACK)                                                                              \
    X(WAL_AFTER_ROLL)                                                                              \
    X(WAL_AFTER_IDLE_SEAL)                                                                         \
    X(WAL_BEFORE_TRIM)                                                                             \
    X(WAL_AFTER_TRIM_ONE)                                                                          \
    X(WAL_AFTER_TRIM)                                                                              \
    X(CKPT_AFTER_GATHER)                                                                           \
    X(CKPT_AFTER_BUILD)                                                                            \
    X(CKPT_AFTER_VERIFY)                                                                           \
    X(CKPT_AFTER_SYNC)                                                                             \
    X(CKPT_AFTER_RENAME)                                                                           \
    X(CKPT_AFTER_DIR_SYNC)                                                                         \
    X(CKPT_BEFORE_REMOVE)                                                                          \
    X(CKPT_AFTER_REMOVE)                                                                           \
    X(FOLD_AFTER_BUILD)                                                                            \
    X(FOLD_AFTER_PUBLISH)                                                                          \
    X(REC_AFTER_FACTS)                                                                             \
    X(REC_AFTER_PLAN)                                                                              \
    X(REC_AFTER_REBUILD_WRITE)                                                                     \
    X(REC_AFTER_REBUILD_SYNC)                                                                      \
    X(REC_AFTER_REBUILD_RENAME)                                                                    \
    X(REC_AFTER_REBUILD_DIR_SYNC)                                                                  \
    X(REC_AFTER_QUARANTINE)                                                                        \
    X(REC_AFTER_VOID)                                                                              \
    X(REC_AFTER_SET_ASIDE)                                                                         \
    X(REC_AFTER_STATE)                                                                             \
    X(REC_AFTER_REPLAY)                                                                            \
    X(BLOCK_BEFORE_APPEND)                                                                         \
    X(BLOCK_AFTER_APPEND)                                                                          \
    X(BATCH_BEFORE_OPEN)                                                                           \
    X(BATCH_AFTER_OPEN)                                                                            \
    X(BATCH_AFTER_COMPUTE)                                                                         \
    X(BATCH_AFTER_RESULT)                                                                          \
    X(BATCH_RESULT_DURABLE)                                                                        \
    X(SINK_BEFORE_BEGIN)                                                                           \
    X(SINK_AFTER_BEGIN)                                                                            \
    X(SINK_AFTER_WRITE)                                                                            \
    X(SINK_BEFORE_COMMIT)                                                                          \
    X(SINK_AFTER_COMMIT)                                                                           \
    X(SINK_NOTE_DURABLE)                                                                           \
    X(BATCH_AFTER_DONE)                                                                            \
    X(FILE_SINK_AFTER_WRITE)                                                                       \
    X(FILE_SINK_AFTER_SYNC)                                                                        \
    X(FILE_SINK_AFTER_LEDGER)                                                                      \
    X(FILE_SINK_AFTER_RENAME)                                                                      \
    X(FILE_SINK_AFTER_DIR_SYNC)                                                                    \
    X(KSINK_AFTER_INIT)                                                                            \
    X(KSINK_AFTER_FIRST_TOKEN)                                                                     \
    X(KSINK_AFTER_BEGIN)                                                                           \
    X(KSINK_AFTER_PRODUCE)                                                                         \
    X(KSINK_AFTER_SEND_OFFSETS)                                                                    \
    X(KSINK_AFTER_PART)                                                                            \
    X(KSINK_AFTER_COMMIT)                                                                          \
    X(SOURCE_BEFORE_INIT)                                                                          \
    X(SOURCE_AFTER_INIT)                                                                           \
    X(LEDGER_AFTER_WRITE)                                                                          \
    X(LEDGER_AFTER_SYNC)                                                                           \
    X(LEDGER_AFTER_SEEN)                                                                           \
    X(STOP_BEFORE_DRAIN)                                                                           \
    X(STOP_AFTER_DRAIN)

enum crash_point {
#define CRASH_POINT_ENUM(name) CP_##name,
    CRASH_POINTS(CRASH_POINT_ENUM)
#undef CRASH_POINT_ENUM
        CP_COUNT
};

#endif
