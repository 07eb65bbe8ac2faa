; The native part of the runtime: one thread pool for the process, and the interpreter of module programs.
; Compiled once per process by runtime/native.py, which fills in the futex system call number and the spin-wait hint of the
; machine at hand.
;
; A parallel step is published in @pool by the one caller that holds `busy`; callers that find it held run their step
; alone, so every caller makes progress. Protocol, all on the 64-bit word `ctl` = generation:32 | open:1 | limit:15 | joined:16
;   caller:  fill in the job, left = 0; ctl = new generation | open | limit; wake sleepers; run chunks;
;            clear `open` (the old value tells how many joined); wait until left == joined.
;   worker:  on an open new generation with joined < limit, joined + 1 by compare-and-swap; run chunks; left + 1.
; Chunks are dealt out as one contiguous range per thread, so that a thread meets the same part of a tensor in one step
; after another (it is in that core's cache); who has finished takes chunks from the ranges of others.
; A worker that comes late finds the job closed and touches nothing, so the caller never waits for sleepers. Who finds them asleep and
; expects to be done before they are up lets them sleep (@brief_burst).
;
; A team step (kind 1) is one call on each of several threads at once, which meet at barriers. The caller waits a moment for
; workers to join, then closes the job; the threads that are in by then are the team, each working already, so that none is
; waited for in vain: a caller whom nobody joins, or who finds the pool held, is a team of one.
;
; A kernel that takes its chunks by itself (kind 2) is called once on each thread: it keeps what it prepared for one for the next.

%Pool = type {
  i64, [15 x i64],                 ;  0 ctl
  i64, i64, [14 x i64],            ;  2 pieces: number of chunks, 3 parts: number of ranges
  i32, i32, [15 x i64],            ;  5 left, 6 parked: the caller sleeps on `left`
  i32, i32, i32, i32, [14 x i64],  ;  8 busy, 9 sleepers, 10 workers, 11 kind: 0 chunks, 1 team, 2 takes chunks
  ptr, ptr, ptr, i64, [12 x i64],  ; 13 fn, 14 bufs, 15 dims, 16 units
  i64, [15 x i64],                 ; 18 arrived at the barrier
  i64                              ; 20 phase: barriers passed
}
@pool = internal global %Pool zeroinitializer, align 128
@next = internal global [256 x [8 x i64]] zeroinitializer, align 128 ; per range: its first chunk not yet taken
@burst = internal global [3 x i64] zeroinitializer, align 128 ; ns: last step ended, its burst began, length of the one before

; Execution context, laid out by runtime/native.py.
%Ctx = type {
  ptr,  ; 0 program: i64 words
  i64,  ; 1 number of words
  ptr,  ; 2 fns: kernel entry points
  ptr,  ; 3 bufs: pointer of each buffer
  ptr,  ; 4 dims: i64 value of each slot
  i64,  ; 5 threads
  ptr,  ; 6 scratch for gathered operands: 8 bytes each, for the largest call
  ptr,  ; 7 null, or per program word: at a call's word += nanoseconds, at the next += 1
  i64,  ; 8 where to start: 0, or behind the yield that the last call returned at
  ptr,  ; 9 tables of the run, or null
  ptr,  ; 10 words of shortcuts
  ptr   ; 11 where the shortcut of each handler begins, or -1
}

%Timespec = type { i64, i64 }

declare i64 @syscall(i64, ...)
declare i32 @sched_yield()
declare i32 @clock_gettime(i32, ptr)
declare void $PAUSE_TYPE$
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_attr_init(ptr)
declare i32 @pthread_attr_setdetachstate(ptr, i32)
declare i32 @pthread_attr_setstacksize(ptr, i64)
declare i32 @pthread_attr_destroy(ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare i64 @llvm.umin.i64(i64, i64)
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)
declare { i64, i1 } @llvm.sadd.with.overflow.i64(i64, i64)
declare { i64, i1 } @llvm.smul.with.overflow.i64(i64, i64)
declare void @llvm.memmove.p0.p0.i64(ptr, ptr, i64, i1)
declare i64 @llvm.umax.i64(i64, i64)

define internal i64 @now() {
  %ts = alloca %Timespec
  %r = call i32 @clock_gettime(i32 1, ptr %ts)
  %s = load i64, ptr %ts
  %np = getelementptr %Timespec, ptr %ts, i32 0, i32 1
  %n = load i64, ptr %np
  %sn = mul i64 %s, 1000000000
  %t = add i64 %sn, %n
  ret i64 %t
}

define internal void @futex_wait(ptr %word, i32 %seen) noinline {
  %v = zext i32 %seen to i64
  %r = call i64 (i64, ...) @syscall(i64 $FUTEX$, ptr %word, i64 128, i64 %v, ptr null, ptr null, i64 0)
  ret void
}

define internal void @futex_wake(ptr %word, i64 %count) noinline {
  %r = call i64 (i64, ...) @syscall(i64 $FUTEX$, ptr %word, i64 129, i64 %count, ptr null, ptr null, i64 0)
  ret void
}

; A few spin-wait hints; true while the deadline (set on the first call, when 0) lies ahead.
define internal i1 @spin(ptr %deadline) noinline {
entry:
  br label %pause
pause:
  %i = phi i32 [ 0, %entry ], [ %i1, %pause ]
  call void $PAUSE$
  %i1 = add i32 %i, 1
  %more = icmp ult i32 %i1, 2
  br i1 %more, label %pause, label %clock
clock:
  %t = call i64 @now()
  %d = load i64, ptr %deadline
  %first = icmp eq i64 %d, 0
  br i1 %first, label %set, label %check
set:
  %end = add i64 %t, 60000
  store i64 %end, ptr %deadline
  ret i1 true
check:
  %ok = icmp slt i64 %t, %d
  ret i1 %ok
}

; Whether steps that are wanted now may be over before a worker that sleeps has come (caller holds `busy`): it takes 10 to 70 µs, finds its
; caches cold, and waking it costs the caller 2 to 8 µs. A burst is what runs without a pause of 100 µs. What came before tells how long
; this one will be: after one of up to 150 µs nobody is woken in the first 150 µs of the next, after a longer one at once.
define internal i1 @brief_burst() noinline {
  %t = call i64 @now()
  %last = load atomic i64, ptr @burst monotonic, align 8
  %pause = sub i64 %t, %last
  %over = icmp ugt i64 %pause, 100000
  %began.p = getelementptr i64, ptr @burst, i64 1
  %before.p = getelementptr i64, ptr @burst, i64 2
  %began.0 = load i64, ptr %began.p
  %before.0 = load i64, ptr %before.p
  %length = sub i64 %last, %began.0
  %began = select i1 %over, i64 %t, i64 %began.0
  %before = select i1 %over, i64 %length, i64 %before.0
  store i64 %began, ptr %began.p
  store i64 %before, ptr %before.p
  %age = sub i64 %t, %began
  %longest = call i64 @llvm.umax.i64(i64 %age, i64 %before)
  %brief = icmp ult i64 %longest, 150000
  ret i1 %brief
}

define internal void @ends_now() {
  %t = call i64 @now()
  store atomic i64 %t, ptr @burst monotonic, align 8
  ret void
}

; The next chunk of the published job: its first unit and the one behind its last; 0 when none is left. %share: the range at which
; its thread is, counted from its own on, and the one where it has been to all.
define internal i64 @take(ptr %share, ptr %chunk) {
entry:
  %pieces = load i64, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 2)
  %parts = load i64, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 3)
  %units = load i64, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 16)
  %start = load i64, ptr %share
  %stopp = getelementptr i64, ptr %share, i64 1
  %stop = load i64, ptr %stopp
  br label %part
part:
  %s = phi i64 [ %start, %entry ], [ %s1, %finished ]
  %more = icmp ult i64 %s, %stop
  br i1 %more, label %look, label %none
none:
  store i64 %s, ptr %share
  ret i64 0
look:
  %p = urem i64 %s, %parts
  %p1 = add i64 %p, 1
  %e0 = mul i64 %p1, %pieces
  %last = udiv i64 %e0, %parts
  %next = getelementptr [256 x [8 x i64]], ptr @next, i64 0, i64 %p
  %seen = load atomic i64, ptr %next monotonic, align 8 ; spares others' lines a write when all is taken
  %any = icmp ult i64 %seen, %last
  br i1 %any, label %grab, label %finished
grab:
  %i = atomicrmw add ptr %next, i64 1 monotonic
  %mine = icmp ult i64 %i, %last
  br i1 %mine, label %work, label %finished
finished:
  %s1 = add i64 %s, 1
  br label %part
work:
  store i64 %s, ptr %share
  %b0 = mul i64 %i, %units
  %begin = udiv i64 %b0, %pieces
  store i64 %begin, ptr %chunk
  %b1 = add i64 %b0, %units
  %end = udiv i64 %b1, %pieces
  %endp = getelementptr i64, ptr %chunk, i64 1
  store i64 %end, ptr %endp
  ret i64 1
}

; As @take, for a caller alone: all units, whose number %share holds, then none.
define internal i64 @take_all(ptr %share, ptr %chunk) {
  %units = load i64, ptr %share
  store i64 0, ptr %share
  store i64 0, ptr %chunk
  %endp = getelementptr i64, ptr %chunk, i64 1
  store i64 %units, ptr %endp
  %any = icmp ne i64 %units, 0
  %found = zext i1 %any to i64
  ret i64 %found
}

; Work on chunks of the published job until none is left, from range %start on.
define internal void @chunks(i64 %start) {
entry:
  %share = alloca [2 x i64]
  %chunk = alloca [2 x i64]
  %parts = load i64, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 3)
  %kind = load i32, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 11)
  %fn = load ptr, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 13)
  %bufs = load ptr, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 14)
  %dims = load ptr, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 15)
  store i64 %start, ptr %share
  %stop = add i64 %start, %parts
  %stopp = getelementptr i64, ptr %share, i64 1
  store i64 %stop, ptr %stopp
  %takes = icmp eq i32 %kind, 2
  br i1 %takes, label %once, label %next
once:
  call void %fn(ptr %bufs, ptr %dims, ptr @take, ptr %share)
  ret void
next:
  %found = call i64 @take(ptr %share, ptr %chunk)
  %any = icmp ne i64 %found, 0
  br i1 %any, label %work, label %done
work:
  %begin = load i64, ptr %chunk
  %endp = getelementptr i64, ptr %chunk, i64 1
  %end = load i64, ptr %endp
  call void %fn(ptr %bufs, ptr %dims, i64 %begin, i64 %end)
  br label %next
done:
  ret void
}

; Wait until all %parts threads of the team are here. After a while of spinning, others may have the processor.
define internal void @barrier(i64 %parts) noinline {
entry:
  %alone = icmp ule i64 %parts, 1
  br i1 %alone, label %done, label %arrive
arrive:
  %phase = load atomic i64, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 20) monotonic, align 8
  %others = atomicrmw add ptr getelementptr (%Pool, ptr @pool, i32 0, i32 18), i64 1 acq_rel
  %n = add i64 %others, 1
  %last = icmp eq i64 %n, %parts
  br i1 %last, label %open, label %wait
open:
  store atomic i64 0, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 18) monotonic, align 8
  %p1 = add i64 %phase, 1
  store atomic i64 %p1, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 20) release, align 8
  ret void
wait:
  %i = phi i64 [ 0, %arrive ], [ %i1, %again ]
  %now = load atomic i64, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 20) acquire, align 8
  %same = icmp eq i64 %now, %phase
  br i1 %same, label %still, label %done
still:
  %i1 = add i64 %i, 1
  %brief = icmp ult i64 %i, 200 ; a pause may take longer than the whole wait
  br i1 %brief, label %again, label %longer
longer:
  call void @pause_or_yield(i64 %i)
  br label %again
again:
  br label %wait
done:
  ret void
}

define internal void @pause_or_yield(i64 %waited) {
  %some = icmp ult i64 %waited, 4000
  br i1 %some, label %pause, label %yield
pause:
  call void $PAUSE$
  ret void
yield:
  %y = call i32 @sched_yield()
  ret void
}

; One member's part of the published team job, once the team is complete.
define internal void @member(i64 %rank) {
entry:
  br label %look
look:
  %i = phi i64 [ 0, %entry ], [ %i1, %wait ]
  %ctl = load atomic i64, ptr @pool acquire, align 8
  %o = and i64 %ctl, 2147483648
  %open = icmp ne i64 %o, 0
  br i1 %open, label %wait, label %run
wait:
  %i1 = add i64 %i, 1
  call void @pause_or_yield(i64 %i)
  br label %look
run:
  %joined = and i64 %ctl, 65535
  %parts = add i64 %joined, 1
  %fn = load ptr, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 13)
  %bufs = load ptr, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 14)
  %dims = load ptr, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 15)
  call void %fn(ptr %bufs, ptr %dims, i64 %rank, i64 %parts, ptr @barrier)
  ret void
}

define internal ptr @worker(ptr %arg) {
entry:
  %deadline = alloca i64
  %a = ptrtoint ptr %arg to i64
  %gen0 = and i64 %a, 4294967295
  %id = lshr i64 %a, 32
  br label %idle
idle:
  %seen0 = phi i64 [ %gen0, %entry ], [ %gen, %missed ], [ %gen, %leave ], [ %seen, %unpark ]
  store i64 0, ptr %deadline
  br label %poll
poll:
  %seen = phi i64 [ %seen0, %idle ], [ %seen, %wait ]
  %ctl = load atomic i64, ptr @pool acquire, align 8
  %gen.a = lshr i64 %ctl, 32
  %same = icmp eq i64 %gen.a, %seen
  br i1 %same, label %wait, label %try
wait:
  %keep = call i1 @spin(ptr %deadline)
  br i1 %keep, label %poll, label %park
park:
  %s0 = atomicrmw add ptr getelementptr (%Pool, ptr @pool, i32 0, i32 9), i32 1 seq_cst
  %seen32 = trunc i64 %seen to i32
  call void @futex_wait(ptr getelementptr (i8, ptr @pool, i64 4), i32 %seen32)
  br label %unpark
unpark:
  %s1 = atomicrmw sub ptr getelementptr (%Pool, ptr @pool, i32 0, i32 9), i32 1 seq_cst
  br label %idle
try:
  %c = phi i64 [ %ctl, %poll ], [ %c.new, %join ]
  %gen = lshr i64 %c, 32
  %o = and i64 %c, 2147483648
  %open = icmp ne i64 %o, 0
  %joined = and i64 %c, 65535
  %l0 = lshr i64 %c, 16
  %limit = and i64 %l0, 32767
  %room = icmp ult i64 %joined, %limit
  %may = and i1 %open, %room
  br i1 %may, label %join, label %missed
missed:
  br label %idle
join:
  %c1 = add i64 %c, 1
  %x = cmpxchg ptr @pool, i64 %c, i64 %c1 acq_rel acquire, align 8
  %c.new = extractvalue { i64, i1 } %x, 0
  %won = extractvalue { i64, i1 } %x, 1
  br i1 %won, label %run, label %try
run:
  %kind = load i32, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 11)
  %team = icmp eq i32 %kind, 1
  br i1 %team, label %together, label %apart
together:
  %rank = add i64 %joined, 1
  call void @member(i64 %rank)
  br label %ready
apart:
  call void @chunks(i64 %id)
  br label %ready
ready:
  %n0 = atomicrmw add ptr getelementptr (%Pool, ptr @pool, i32 0, i32 5), i32 1 seq_cst
  %p = load atomic i32, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 6) seq_cst, align 4
  %asleep = icmp ne i32 %p, 0
  br i1 %asleep, label %wake, label %leave
wake:
  call void @futex_wake(ptr getelementptr (%Pool, ptr @pool, i32 0, i32 5), i64 1)
  br label %leave
leave:
  br label %idle
}

; Bring the number of workers to %want (caller holds `busy`); returns how many there are.
define internal i32 @grow(i32 %want) noinline {
entry:
  %attr = alloca [128 x i8], align 16
  %all = alloca [128 x i8], align 16
  %old = alloca [128 x i8], align 16
  %thread = alloca i64
  call void @llvm.memset.p0.i64(ptr %all, i8 -1, i64 128, i1 false)
  ; signals belong to the threads of the application
  %m0 = call i32 @pthread_sigmask(i32 2, ptr %all, ptr %old)
  %a0 = call i32 @pthread_attr_init(ptr %attr)
  %a1 = call i32 @pthread_attr_setdetachstate(ptr %attr, i32 1)
  %a2 = call i32 @pthread_attr_setstacksize(ptr %attr, i64 8388608)
  %ctl = load atomic i64, ptr @pool monotonic, align 8
  %gen = lshr i64 %ctl, 32
  br label %next
next:
  %n = load atomic i32, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 10) monotonic, align 4
  %few = icmp ult i32 %n, %want
  br i1 %few, label %create, label %done
create:
  %id = add i32 %n, 1
  %id64 = zext i32 %id to i64
  %idh = shl i64 %id64, 32
  %a = or i64 %idh, %gen
  %arg = inttoptr i64 %a to ptr
  %rc = call i32 @pthread_create(ptr %thread, ptr %attr, ptr @worker, ptr %arg)
  %ok = icmp eq i32 %rc, 0
  br i1 %ok, label %count, label %done
count:
  %n1 = add i32 %n, 1
  store atomic i32 %n1, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 10) monotonic, align 4
  br label %next
done:
  %d0 = call i32 @pthread_attr_destroy(ptr %attr)
  %m1 = call i32 @pthread_sigmask(i32 2, ptr %old, ptr null)
  ret i32 %n
}

; Run [0, units) of one kernel on up to %threads threads, at least %grain units at a time; -%grain asks for one chunk a thread.
define void @mlc_parallel(ptr %fn, ptr %bufs, ptr %dims, i64 %units, i64 %grain, i64 %threads) {
  call void @launch(i32 0, ptr %fn, ptr %bufs, ptr %dims, i64 %units, i64 %grain, i64 %threads)
  ret void
}

; Run fn(bufs, dims, part, parts, barrier) on as many threads as there are pieces of %grain units, at most %threads.
define void @mlc_team(ptr %fn, ptr %bufs, ptr %dims, i64 %units, i64 %grain, i64 %threads) {
  call void @launch(i32 1, ptr %fn, ptr %bufs, ptr %dims, i64 %units, i64 %grain, i64 %threads)
  ret void
}

; Run fn(bufs, dims, take, share) on up to %threads threads, which take chunks of at least %grain units by i64 take(share, chunk).
define void @mlc_taking(ptr %fn, ptr %bufs, ptr %dims, i64 %units, i64 %grain, i64 %threads) {
  call void @launch(i32 2, ptr %fn, ptr %bufs, ptr %dims, i64 %units, i64 %grain, i64 %threads)
  ret void
}

define internal void @alone(i32 %kind, ptr %fn, ptr %bufs, ptr %dims, i64 %units) {
entry:
  %share = alloca i64
  switch i32 %kind, label %whole [ i32 1, label %single
                                   i32 2, label %at.once ]
at.once:
  store i64 %units, ptr %share
  call void %fn(ptr %bufs, ptr %dims, ptr @take_all, ptr %share)
  ret void
single:
  call void %fn(ptr %bufs, ptr %dims, i64 0, i64 1, ptr @barrier)
  ret void
whole:
  call void %fn(ptr %bufs, ptr %dims, i64 0, i64 %units)
  ret void
}

define internal void @launch(i32 %kind, ptr %fn, ptr %bufs, ptr %dims, i64 %units, i64 %grain.or.minus, i64 %threads) {
entry:
  %deadline = alloca i64
  %minus = sub i64 0, %grain.or.minus
  %grain = call i64 @llvm.smax.i64(i64 %grain.or.minus, i64 %minus)
  %fewest = icmp slt i64 %grain.or.minus, 0
  %team = icmp eq i32 %kind, 1
  %few = icmp ule i64 %units, %grain
  %one = icmp ule i64 %threads, 1
  %alone = or i1 %few, %one
  br i1 %alone, label %serial, label %acquire
serial:
  call void @alone(i32 %kind, ptr %fn, ptr %bufs, ptr %dims, i64 %units)
  ret void
acquire:
  %held = load atomic i32, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 8) monotonic, align 4
  %free = icmp eq i32 %held, 0
  br i1 %free, label %swap, label %serial
swap:
  %x = cmpxchg ptr getelementptr (%Pool, ptr @pool, i32 0, i32 8), i32 0, i32 1 acquire monotonic, align 4
  %won = extractvalue { i32, i1 } %x, 1
  br i1 %won, label %plan, label %serial
plan:
  ; eight chunks a thread: enough to even out what another program slows down, few enough to stay cheap. Sizes differ by one unit at
  ; most, and threads get as many chunks each, if there are enough.
  %least = call i64 @llvm.umax.i64(i64 %grain, i64 1)
  %rest = sub i64 %least, 1
  %u1 = add i64 %units, %rest
  %u2 = select i1 %team, i64 %u1, i64 %units
  %grains = udiv i64 %u2, %least
  %t.log = select i1 %fewest, i64 0, i64 3
  %most = shl i64 %threads, %t.log
  %c0 = call i64 @llvm.umin.i64(i64 %grains, i64 %most)
  %odd = urem i64 %c0, %threads
  %c1 = sub i64 %c0, %odd
  %scarce = icmp ult i64 %c0, %threads
  %c2 = select i1 %scarce, i64 %c0, i64 %c1
  %pieces = select i1 %team, i64 %grains, i64 %c2
  %p0 = call i64 @llvm.umin.i64(i64 %pieces, i64 %threads)
  %p1 = call i64 @llvm.umin.i64(i64 %p0, i64 256)
  %helpers = sub i64 %p1, 1
  %h32 = trunc i64 %helpers to i32
  %have = load atomic i32, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 10) monotonic, align 4
  %enough = icmp uge i32 %have, %h32
  br i1 %enough, label %publish, label %more
more:
  %grown = call i32 @grow(i32 %h32)
  br label %publish
publish:
  %nap = load atomic i32, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 9) monotonic, align 4
  %awake = icmp ult i32 %nap, %h32
  br i1 %awake, label %fill, label %doubt
doubt:
  %small = icmp ult i64 %grains, 64
  %brief = call i1 @brief_burst()
  %skip = and i1 %small, %brief
  br i1 %skip, label %leave, label %fill
leave:
  store atomic i32 0, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 8) release, align 4
  call void @alone(i32 %kind, ptr %fn, ptr %bufs, ptr %dims, i64 %units)
  call void @ends_now()
  ret void
fill:
  store i32 %kind, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 11)
  store atomic i64 0, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 18) monotonic, align 8
  store ptr %fn, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 13)
  store ptr %bufs, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 14)
  store ptr %dims, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 15)
  store i64 %units, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 16)
  store i64 %pieces, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 2)
  store i64 %p1, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 3)
  store atomic i32 0, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 5) monotonic, align 4
  br label %deal
deal:
  %q = phi i64 [ 0, %fill ], [ %q1, %deal ]
  %f0 = mul i64 %q, %pieces
  %first = udiv i64 %f0, %p1
  %slot = getelementptr [256 x [8 x i64]], ptr @next, i64 0, i64 %q
  store atomic i64 %first, ptr %slot monotonic, align 8
  %q1 = add i64 %q, 1
  %undealt = icmp ult i64 %q1, %p1
  br i1 %undealt, label %deal, label %open
open:
  %ctl = load atomic i64, ptr @pool monotonic, align 8
  %g0 = lshr i64 %ctl, 32
  %g1 = add i64 %g0, 1
  %g2 = shl i64 %g1, 32
  %lim = shl i64 %helpers, 16
  %w0 = or i64 %g2, %lim
  %w1 = or i64 %w0, 2147483648
  store atomic i64 %w1, ptr @pool seq_cst, align 8
  %sleepers = load atomic i32, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 9) seq_cst, align 4
  %none = icmp eq i32 %sleepers, 0
  store i64 0, ptr %deadline
  br i1 %none, label %work, label %wake
wake:
  call void @futex_wake(ptr getelementptr (i8, ptr @pool, i64 4), i64 %helpers)
  br label %work
work:
  br i1 %team, label %enlist, label %apart
enlist:
  %e0 = load atomic i64, ptr @pool monotonic, align 8
  %e1 = and i64 %e0, 65535
  %full = icmp uge i64 %e1, %helpers
  br i1 %full, label %complete, label %patience
patience:
  %hope = call i1 @spin(ptr %deadline)
  br i1 %hope, label %enlist, label %complete
complete:
  %team.ctl = atomicrmw and ptr @pool, i64 -2147483649 acq_rel
  call void @member(i64 0)
  br label %joining
apart:
  call void @chunks(i64 0)
  %chunks.ctl = atomicrmw and ptr @pool, i64 -2147483649 acq_rel
  br label %joining
joining:
  %closed = phi i64 [ %team.ctl, %complete ], [ %chunks.ctl, %apart ]
  %j0 = and i64 %closed, 65535
  %joined = trunc i64 %j0 to i32
  store i64 0, ptr %deadline
  br label %join
join:
  %left = load atomic i32, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 5) acquire, align 4
  %all = icmp eq i32 %left, %joined
  br i1 %all, label %release, label %wait
wait:
  %keep = call i1 @spin(ptr %deadline)
  br i1 %keep, label %join, label %park
park:
  store atomic i32 1, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 6) seq_cst, align 4
  %left2 = load atomic i32, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 5) seq_cst, align 4
  %all2 = icmp eq i32 %left2, %joined
  br i1 %all2, label %unpark, label %sleep
sleep:
  call void @futex_wait(ptr getelementptr (%Pool, ptr @pool, i32 0, i32 5), i32 %left2)
  br label %unpark
unpark:
  store atomic i32 0, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 6) seq_cst, align 4
  br label %join
release:
  call void @ends_now()
  store atomic i32 0, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 8) release, align 4
  ret void
}

; After a fork only the calling thread exists in the child: forget the workers, they start again on demand.
define void @mlc_forget() {
  store i32 0, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 6)
  store i32 0, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 9)
  store i32 0, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 10)
  store i64 0, ptr @pool
  store i32 0, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 8)
  ret void
}

define i64 @mlc_workers() {
  %n = load atomic i32, ptr getelementptr (%Pool, ptr @pool, i32 0, i32 10) monotonic, align 4
  %r = zext i32 %n to i64
  ret i64 %r
}

; table[ids[i]] for i < n, into %out.
define internal void @gather(ptr %out, ptr %table, ptr %ids, i64 %n) {
entry:
  %any = icmp ne i64 %n, 0
  br i1 %any, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %i1, %loop ]
  %idp = getelementptr i64, ptr %ids, i64 %i
  %id = load i64, ptr %idp
  %src = getelementptr i64, ptr %table, i64 %id
  %v = load i64, ptr %src
  %dst = getelementptr i64, ptr %out, i64 %i
  store i64 %v, ptr %dst
  %i1 = add i64 %i, 1
  %more = icmp ult i64 %i1, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}

define internal ptr @buffer(ptr %bufs, ptr %word) {
  %id = load i64, ptr %word
  %p = getelementptr ptr, ptr %bufs, i64 %id
  %b = load ptr, ptr %p
  ret ptr %b
}

; Sizes, from what the tables of a run hold, and what can be done without a yield: see runtime/words.py and shortcuts.py. Words
; are an operation and three places in the tables. -1 at the end; where a check fails or a size leaves ±2^62, the number of that word.
;   0 end   1 add  2 multiply  3 divide, down, 0 by 0  4 least  5 greatest of a and b, to d   6 d = a
;   7 a <= b?   8 a == b?   9 d = the b-th word (b is a number) at address a   10 d = address a + b
;   11 exchange a and b   12 copy b bytes from address a to address d
define i64 @mlc_evaluate(ptr %t, ptr %code) noinline {
entry:
  br label %fetch
fetch:
  %pc = phi i64 [ 0, %entry ], [ %next, %step ]
  %at = getelementptr i64, ptr %code, i64 %pc
  %op = load i64, ptr %at
  %at1 = getelementptr i64, ptr %at, i64 1
  %at2 = getelementptr i64, ptr %at, i64 2
  %at3 = getelementptr i64, ptr %at, i64 3
  %di = load i64, ptr %at1
  %ai = load i64, ptr %at2
  %bi = load i64, ptr %at3
  %d = getelementptr i64, ptr %t, i64 %di
  %a = getelementptr i64, ptr %t, i64 %ai
  %bw = icmp eq i64 %op, 9 ; whose b is a number
  %bz = select i1 %bw, i64 0, i64 %bi
  %b = getelementptr i64, ptr %t, i64 %bz
  %x = load i64, ptr %a
  %y = load i64, ptr %b
  switch i64 %op, label %fail [ i64 0, label %end i64 1, label %add i64 2, label %multiply i64 3, label %divide
                                i64 4, label %least i64 5, label %greatest i64 6, label %move i64 7, label %most
                                i64 8, label %equal i64 9, label %read i64 10, label %point i64 11, label %exchange
                                i64 12, label %copy ]
end:
  ret i64 -1
fail:
  ret i64 %pc
add:
  %sum = call { i64, i1 } @llvm.sadd.with.overflow.i64(i64 %x, i64 %y)
  br label %checked
multiply:
  %product = call { i64, i1 } @llvm.smul.with.overflow.i64(i64 %x, i64 %y)
  br label %checked
checked:
  %r = phi { i64, i1 } [ %sum, %add ], [ %product, %multiply ]
  %rv = extractvalue { i64, i1 } %r, 0
  %over = extractvalue { i64, i1 } %r, 1
  br i1 %over, label %fail, label %limit
limit:
  %low = icmp slt i64 %rv, -4611686018427387904
  %high = icmp sgt i64 %rv, 4611686018427387904
  %far = or i1 %low, %high
  br i1 %far, label %fail, label %set
divide:
  %none = icmp eq i64 %y, 0
  %by = select i1 %none, i64 1, i64 %y
  %q = sdiv i64 %x, %by
  %back = mul i64 %q, %by
  %rest = sub i64 %x, %back
  %exact = icmp eq i64 %rest, 0
  %signs = xor i64 %x, %by
  %negative = icmp slt i64 %signs, 0
  %inexact = xor i1 %exact, true
  %down = and i1 %inexact, %negative
  %one = zext i1 %down to i64
  %floor = sub i64 %q, %one
  %quotient = select i1 %none, i64 0, i64 %floor
  br label %set
least:
  %min = call i64 @llvm.smin.i64(i64 %x, i64 %y)
  br label %set
greatest:
  %max = call i64 @llvm.smax.i64(i64 %x, i64 %y)
  br label %set
move:
  br label %set
most:
  %le = icmp sle i64 %x, %y
  br i1 %le, label %step, label %fail
equal:
  %eq = icmp eq i64 %x, %y
  br i1 %eq, label %step, label %fail
read:
  %from = inttoptr i64 %x to ptr
  %word = getelementptr i64, ptr %from, i64 %bi
  %size = load i64, ptr %word, align 1
  br label %set
point:
  %place = add i64 %x, %y
  br label %set
exchange:
  store i64 %y, ptr %a
  store i64 %x, ptr %b
  br label %step
copy:
  %to = load i64, ptr %d
  %top = inttoptr i64 %to to ptr
  %source = inttoptr i64 %x to ptr
  call void @llvm.memmove.p0.p0.i64(ptr %top, ptr %source, i64 %y, i1 false)
  br label %step
set:
  %v = phi i64 [ %rv, %limit ], [ %quotient, %divide ], [ %min, %least ], [ %max, %greatest ], [ %x, %move ], [ %size, %read ],
               [ %place, %point ]
  store i64 %v, ptr %d
  br label %step
step:
  %next = add i64 %pc, 4
  br label %fetch
}

; Run a program. 0: done, 1: unknown instruction, 2: yielded; called again, it goes on behind that; 3: not as expected. Programs are checked when they are loaded, not here.
;   1 fn nbufs ndims units_slot grain_slot bufs.. dims..    call
;   2 target                                                 jump
;   3 buf target                                             jump if the bool in buf is false
;   4 buf / 5 buf                                            i64 in buf += 1 / = 0
;   6 a b target                                             jump if i64 in a >= i64 in b
;   7 as 1                                                   call of a team
;   8 handler                                                yield: its shortcut, or the caller runs a handler and calls again
;   9 expectation buf k lo_slot hi_slot                      unless i64 buf[2k] >= lo and buf[2k+1] <= hi: return 3, resume at this word
;  10 expectation slot lo_slot hi_slot                      the same of the size in a slot
;  11 as 1                                                   call of a kernel that takes its chunks
define i32 @mlc_run(ptr %ctx) {
entry:
  %p0 = getelementptr %Ctx, ptr %ctx, i32 0, i32 0
  %prog = load ptr, ptr %p0
  %p1 = getelementptr %Ctx, ptr %ctx, i32 0, i32 1
  %words = load i64, ptr %p1
  %p2 = getelementptr %Ctx, ptr %ctx, i32 0, i32 2
  %fns = load ptr, ptr %p2
  %p3 = getelementptr %Ctx, ptr %ctx, i32 0, i32 3
  %bufs = load ptr, ptr %p3
  %p4 = getelementptr %Ctx, ptr %ctx, i32 0, i32 4
  %dims = load ptr, ptr %p4
  %p5 = getelementptr %Ctx, ptr %ctx, i32 0, i32 5
  %threads = load i64, ptr %p5
  %p6 = getelementptr %Ctx, ptr %ctx, i32 0, i32 6
  %scratch = load ptr, ptr %p6
  %p7 = getelementptr %Ctx, ptr %ctx, i32 0, i32 7
  %times = load ptr, ptr %p7
  %timed = icmp ne ptr %times, null
  %resume = getelementptr %Ctx, ptr %ctx, i32 0, i32 8
  %pc0 = load i64, ptr %resume
  br label %fetch
fetch:
  %pc = phi i64 [ %pc0, %entry ], [ %pc.call, %called ], [ %pc.call, %record ], [ %w1, %jump ], [ %pc.br, %branch ],
                [ %pc.inc, %step2 ], [ %pc.ge, %compare ], [ %pc.met, %expect ], [ %pc.kept, %require ], [ %pc.next, %short ]
  %in = icmp ult i64 %pc, %words
  br i1 %in, label %decode, label %end
end:
  store i64 0, ptr %resume
  ret i32 0
bad:
  ret i32 1
yield:
  %pc.next = add i64 %pc, 2
  %p9 = getelementptr %Ctx, ptr %ctx, i32 0, i32 9
  %tables = load ptr, ptr %p9
  %plain = icmp eq ptr %tables, null
  br i1 %plain, label %stop, label %look
look:
  %p11 = getelementptr %Ctx, ptr %ctx, i32 0, i32 11
  %starts = load ptr, ptr %p11
  %sp = getelementptr i64, ptr %starts, i64 %w1
  %start = load i64, ptr %sp
  %has = icmp sge i64 %start, 0
  br i1 %has, label %short, label %stop
short:
  %p10 = getelementptr %Ctx, ptr %ctx, i32 0, i32 10
  %shorts = load ptr, ptr %p10
  %code = getelementptr i64, ptr %shorts, i64 %start
  %failed = call i64 @mlc_evaluate(ptr %tables, ptr %code)
  %done = icmp slt i64 %failed, 0
  br i1 %done, label %fetch, label %stop
stop:
  store i64 %pc.next, ptr %resume
  ret i32 2
unmet:
  store i64 %pc, ptr %resume
  ret i32 3
decode:
  %at = getelementptr i64, ptr %prog, i64 %pc
  %op = load i64, ptr %at
  %at1 = getelementptr i64, ptr %at, i64 1
  %at2 = getelementptr i64, ptr %at, i64 2
  %w1 = load i64, ptr %at1
  switch i64 %op, label %bad [ i64 1, label %call i64 2, label %jump i64 3, label %branch
                               i64 4, label %increment i64 5, label %clear i64 6, label %compare
                               i64 7, label %call i64 8, label %yield i64 9, label %expect
                               i64 10, label %require i64 11, label %call ]
call:
  %together = icmp eq i64 %op, 7
  %takes = icmp eq i64 %op, 11
  %apart = select i1 %takes, i32 2, i32 0
  %kind = select i1 %together, i32 1, i32 %apart
  %nbufs = load i64, ptr %at2
  %at3 = getelementptr i64, ptr %at, i64 3
  %ndims = load i64, ptr %at3
  %at4 = getelementptr i64, ptr %at, i64 4
  %us = load i64, ptr %at4
  %at5 = getelementptr i64, ptr %at, i64 5
  %gs = load i64, ptr %at5
  %at6 = getelementptr i64, ptr %at, i64 6
  %atd = getelementptr i64, ptr %at6, i64 %nbufs
  %sdims = getelementptr i64, ptr %scratch, i64 %nbufs
  call void @gather(ptr %scratch, ptr %bufs, ptr %at6, i64 %nbufs)
  call void @gather(ptr %sdims, ptr %dims, ptr %atd, i64 %ndims)
  %operands = add i64 %nbufs, %ndims
  %size = add i64 %operands, 6
  %pc.call = add i64 %pc, %size
  %usp = getelementptr i64, ptr %dims, i64 %us
  %units = load i64, ptr %usp
  %gsp = getelementptr i64, ptr %dims, i64 %gs
  %grain = load i64, ptr %gsp
  %fnp = getelementptr ptr, ptr %fns, i64 %w1
  %fn = load ptr, ptr %fnp
  br i1 %timed, label %measure, label %untimed
untimed:
  %work = icmp sgt i64 %units, 0
  br i1 %work, label %invoke, label %called
invoke:
  call void @launch(i32 %kind, ptr %fn, ptr %scratch, ptr %sdims, i64 %units, i64 %grain, i64 %threads)
  br label %called
called:
  br label %fetch
measure:
  %t0 = call i64 @now()
  %mwork = icmp sgt i64 %units, 0
  br i1 %mwork, label %minvoke, label %record
minvoke:
  call void @launch(i32 %kind, ptr %fn, ptr %scratch, ptr %sdims, i64 %units, i64 %grain, i64 %threads)
  br label %record
record:
  %t1 = call i64 @now()
  %dt = sub i64 %t1, %t0
  %tp = getelementptr i64, ptr %times, i64 %pc
  %told = load i64, ptr %tp
  %tnew = add i64 %told, %dt
  store i64 %tnew, ptr %tp
  %np = getelementptr i64, ptr %tp, i64 1
  %nold = load i64, ptr %np
  %nnew = add i64 %nold, 1
  store i64 %nnew, ptr %np
  br label %fetch
jump:
  br label %fetch
branch:
  %bb = call ptr @buffer(ptr %bufs, ptr %at1)
  %flag = load i8, ptr %bb
  %false = icmp eq i8 %flag, 0
  %to = load i64, ptr %at2
  %pc3 = add i64 %pc, 3
  %pc.br = select i1 %false, i64 %to, i64 %pc3
  br label %fetch
expect:
  %eb = call ptr @buffer(ptr %bufs, ptr %at2)
  %at.k = getelementptr i64, ptr %at, i64 3
  %k = load i64, ptr %at.k
  %k2 = shl i64 %k, 1
  %leastp = getelementptr i64, ptr %eb, i64 %k2
  %least = load i64, ptr %leastp, align 1
  %greatestp = getelementptr i64, ptr %leastp, i64 1
  %greatest = load i64, ptr %greatestp, align 1
  %at.lo = getelementptr i64, ptr %at, i64 4
  %lo.slot = load i64, ptr %at.lo
  %lop = getelementptr i64, ptr %dims, i64 %lo.slot
  %lo = load i64, ptr %lop
  %at.hi = getelementptr i64, ptr %at, i64 5
  %hi.slot = load i64, ptr %at.hi
  %hip = getelementptr i64, ptr %dims, i64 %hi.slot
  %hi = load i64, ptr %hip
  %low = icmp slt i64 %least, %lo
  %high = icmp sgt i64 %greatest, %hi
  %out = or i1 %low, %high
  %pc.met = add i64 %pc, 6
  br i1 %out, label %unmet, label %fetch
require:
  %size.slot = load i64, ptr %at2
  %sizep = getelementptr i64, ptr %dims, i64 %size.slot
  %needed = load i64, ptr %sizep
  %at.rlo = getelementptr i64, ptr %at, i64 3
  %rlo.slot = load i64, ptr %at.rlo
  %rlop = getelementptr i64, ptr %dims, i64 %rlo.slot
  %rlo = load i64, ptr %rlop
  %at.rhi = getelementptr i64, ptr %at, i64 4
  %rhi.slot = load i64, ptr %at.rhi
  %rhip = getelementptr i64, ptr %dims, i64 %rhi.slot
  %rhi = load i64, ptr %rhip
  %below = icmp slt i64 %needed, %rlo
  %above = icmp sgt i64 %needed, %rhi
  %wrong = or i1 %below, %above
  %pc.kept = add i64 %pc, 5
  br i1 %wrong, label %unmet, label %fetch
increment:
  %ib = call ptr @buffer(ptr %bufs, ptr %at1)
  %iv = load i64, ptr %ib, align 1
  %iv1 = add i64 %iv, 1
  store i64 %iv1, ptr %ib, align 1
  br label %step2
clear:
  %zb = call ptr @buffer(ptr %bufs, ptr %at1)
  store i64 0, ptr %zb, align 1
  br label %step2
step2:
  %pc.inc = add i64 %pc, 2
  br label %fetch
compare:
  %ga = call ptr @buffer(ptr %bufs, ptr %at1)
  %gb = call ptr @buffer(ptr %bufs, ptr %at2)
  %av = load i64, ptr %ga, align 1
  %bv = load i64, ptr %gb, align 1
  %ge = icmp sge i64 %av, %bv
  %atg = getelementptr i64, ptr %at, i64 3
  %target = load i64, ptr %atg
  %pc4 = add i64 %pc, 4
  %pc.ge = select i1 %ge, i64 %target, i64 %pc4
  br label %fetch
}

; Checksum of n bytes: eight lanes of lane = rotl(lane ^ word, 23) * P, each over its own eighth (whole lines of 64 bytes), and then
; a last line each, of what is left, padded with zeros. Each step is a bijection of the lane, so that any single changed word
; changes the result. Eight streams with prefetches keep memory twice as busy as one does, which stops at every page.
declare i64 @llvm.fshl.i64(i64, i64, i64)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)

define internal i64 @mix(i64 %lane, i64 %word) alwaysinline {
  %x = xor i64 %lane, %word
  %r = call i64 @llvm.fshl.i64(i64 %x, i64 %x, i64 23)
  %m = mul i64 %r, -7046029288634856825 ; 0x9E3779B185EBCA87, the first prime of xxHash64
  ret i64 %m
}

define internal i64 @mix_at(i64 %lane, ptr %block, i64 %i) alwaysinline {
  %p = getelementptr i64, ptr %block, i64 %i
  %w = load i64, ptr %p, align 1
  %m = call i64 @mix(i64 %lane, i64 %w)
  ret i64 %m
}

define internal i64 @mix_line(i64 %lane, ptr %line) alwaysinline {
  %m0 = call i64 @mix_at(i64 %lane, ptr %line, i64 0)
  %m1 = call i64 @mix_at(i64 %m0, ptr %line, i64 1)
  %m2 = call i64 @mix_at(i64 %m1, ptr %line, i64 2)
  %m3 = call i64 @mix_at(i64 %m2, ptr %line, i64 3)
  %m4 = call i64 @mix_at(i64 %m3, ptr %line, i64 4)
  %m5 = call i64 @mix_at(i64 %m4, ptr %line, i64 5)
  %m6 = call i64 @mix_at(i64 %m5, ptr %line, i64 6)
  %m7 = call i64 @mix_at(i64 %m6, ptr %line, i64 7)
  ret i64 %m7
}

define internal i64 @mix_ahead(i64 %lane, ptr %line) alwaysinline {
  %ahead = getelementptr i8, ptr %line, i64 1024
  call void @llvm.prefetch.p0(ptr %ahead, i32 0, i32 3, i32 1)
  %m = call i64 @mix_line(i64 %lane, ptr %line)
  ret i64 %m
}

define i64 @mlc_checksum(ptr %data, i64 %n) {
entry:
  %tail = alloca [512 x i8], align 64
  %lines = lshr i64 %n, 9
  %part = shl i64 %lines, 6
  %whole = shl i64 %lines, 9
  %rest = sub i64 %n, %whole
  call void @llvm.memset.p0.i64(ptr %tail, i8 0, i64 512, i1 false)
  %last = getelementptr i8, ptr %data, i64 %whole
  call void @llvm.memcpy.p0.p0.i64(ptr %tail, ptr %last, i64 %rest, i1 false)
  br label %head
head:
  %p0 = phi ptr [ %data, %entry ], [ %next, %line ]
  %i = phi i64 [ 0, %entry ], [ %i1, %line ]
  %a0 = phi i64 [ 1, %entry ], [ %b0, %line ]
  %a1 = phi i64 [ 2, %entry ], [ %b1, %line ]
  %a2 = phi i64 [ 3, %entry ], [ %b2, %line ]
  %a3 = phi i64 [ 4, %entry ], [ %b3, %line ]
  %a4 = phi i64 [ 5, %entry ], [ %b4, %line ]
  %a5 = phi i64 [ 6, %entry ], [ %b5, %line ]
  %a6 = phi i64 [ 7, %entry ], [ %b6, %line ]
  %a7 = phi i64 [ 8, %entry ], [ %b7, %line ]
  %over = icmp eq i64 %i, %lines
  br i1 %over, label %end, label %line
line:
  %b0 = call i64 @mix_ahead(i64 %a0, ptr %p0)
  %p1 = getelementptr i8, ptr %p0, i64 %part
  %b1 = call i64 @mix_ahead(i64 %a1, ptr %p1)
  %p2 = getelementptr i8, ptr %p1, i64 %part
  %b2 = call i64 @mix_ahead(i64 %a2, ptr %p2)
  %p3 = getelementptr i8, ptr %p2, i64 %part
  %b3 = call i64 @mix_ahead(i64 %a3, ptr %p3)
  %p4 = getelementptr i8, ptr %p3, i64 %part
  %b4 = call i64 @mix_ahead(i64 %a4, ptr %p4)
  %p5 = getelementptr i8, ptr %p4, i64 %part
  %b5 = call i64 @mix_ahead(i64 %a5, ptr %p5)
  %p6 = getelementptr i8, ptr %p5, i64 %part
  %b6 = call i64 @mix_ahead(i64 %a6, ptr %p6)
  %p7 = getelementptr i8, ptr %p6, i64 %part
  %b7 = call i64 @mix_ahead(i64 %a7, ptr %p7)
  %next = getelementptr i8, ptr %p0, i64 64
  %i1 = add i64 %i, 1
  br label %head
end:
  %t0 = getelementptr i8, ptr %tail, i64 0
  %c0 = call i64 @mix_line(i64 %a0, ptr %t0)
  %h0 = call i64 @mix(i64 %n, i64 %c0)
  %t1 = getelementptr i8, ptr %tail, i64 64
  %c1 = call i64 @mix_line(i64 %a1, ptr %t1)
  %h1 = call i64 @mix(i64 %h0, i64 %c1)
  %t2 = getelementptr i8, ptr %tail, i64 128
  %c2 = call i64 @mix_line(i64 %a2, ptr %t2)
  %h2 = call i64 @mix(i64 %h1, i64 %c2)
  %t3 = getelementptr i8, ptr %tail, i64 192
  %c3 = call i64 @mix_line(i64 %a3, ptr %t3)
  %h3 = call i64 @mix(i64 %h2, i64 %c3)
  %t4 = getelementptr i8, ptr %tail, i64 256
  %c4 = call i64 @mix_line(i64 %a4, ptr %t4)
  %h4 = call i64 @mix(i64 %h3, i64 %c4)
  %t5 = getelementptr i8, ptr %tail, i64 320
  %c5 = call i64 @mix_line(i64 %a5, ptr %t5)
  %h5 = call i64 @mix(i64 %h4, i64 %c5)
  %t6 = getelementptr i8, ptr %tail, i64 384
  %c6 = call i64 @mix_line(i64 %a6, ptr %t6)
  %h6 = call i64 @mix(i64 %h5, i64 %c6)
  %t7 = getelementptr i8, ptr %tail, i64 448
  %c7 = call i64 @mix_line(i64 %a7, ptr %t7)
  %h7 = call i64 @mix(i64 %h6, i64 %c7)
  %s = lshr i64 %h7, 32
  %h = xor i64 %h7, %s
  ret i64 %h
}

; Checksums of blocks of `chunk` bytes (the last one may be shorter): each thread that calls this takes the next one until none is left.
define void @mlc_checksums(ptr %data, i64 %n, i64 %chunk, ptr %taken, ptr %sums) {
entry:
  br label %take
take:
  %i = atomicrmw add ptr %taken, i64 1 monotonic
  %start = mul i64 %i, %chunk
  %more = icmp ult i64 %start, %n
  br i1 %more, label %sum, label %end
sum:
  %left = sub i64 %n, %start
  %short = icmp ult i64 %left, %chunk
  %size = select i1 %short, i64 %left, i64 %chunk
  %block = getelementptr i8, ptr %data, i64 %start
  %c = call i64 @mlc_checksum(ptr %block, i64 %size)
  %at = getelementptr i64, ptr %sums, i64 %i
  store i64 %c, ptr %at
  br label %take
end:
  ret void
}
