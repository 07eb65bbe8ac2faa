; Loops over lists of Python's strings, for runtime/texts.py: called with the GIL held. Functions of Python's C interface are called by
; way of a table; those that fail leave an exception, and end the loop.

declare i32 @llvm.fshl.i32(i32, i32, i32)

; What is known of an automaton (host/automaton.py), and where in a text it is.
%walk = type {
  ptr,  ; i32 [states, 256]: states that follow, 0: none, −1: not known
  ptr,  ; i8 [states]: bits of what may lie behind a match
  ptr,  ; i32 [4]: states to begin in, by what lies before
  ptr,  ; i8 [256]: kinds of bytes, from 1
  i64,  ; the next byte
  i64,  ; the state there; −1: nothing is begun
  i64,  ; of tokens: where it was begun
  i64,  ; … the end of the longest match from there, or −1
  i64,  ; … the end of the match before
  i64,  ; … how many were found
  i64,  ; of tokens: the least characters
  i64,  ; … whether they are what is between matches
  ptr   ; … %words that they are numbers of, or null
}

; Words by number, and where numbers go: a table of hashes with a power of two of slots.
%words = type {
  ptr,  ; i32 [slots]: numbers, or −1
  i64,  ; slots − 1
  ptr,  ; i64 [words]: hashes
  ptr,  ; i64 [words + 1]: where the bytes of each begin
  ptr,  ; i8: the bytes of all
  ptr   ; i32: numbers of what is found, −1 for others
}

; Functions of Python's C interface.
%calls = type {
  ptr,  ; PyList_GetItem
  ptr,  ; PyList_SetItem
  ptr,  ; PyList_Append
  ptr,  ; PyUnicode_AsUTF8AndSize
  ptr,  ; PyUnicode_FromStringAndSize
  ptr   ; Py_DecRef
}

; The UTF-8 bytes of a list's text number i, behind which is a zero, and how many there are; null where it has none.
define internal ptr @bytes_of(ptr %calls, ptr %list, i64 %i, ptr %size) alwaysinline {
  %get = load ptr, ptr %calls
  %utf8.at = getelementptr %calls, ptr %calls, i64 0, i32 3
  %utf8 = load ptr, ptr %utf8.at
  %object = call ptr %get(ptr %list, i64 %i)
  %data = call ptr %utf8(ptr %object, ptr %size)
  ret ptr %data
}

; How many of the first objects of an array have this type.
define i64 @mlc_alike(ptr %items, i64 %n, ptr %type, i64 %at.type) {
entry:
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %body ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %body, label %done
body:
  %at = getelementptr ptr, ptr %items, i64 %i
  %object = load ptr, ptr %at
  %where = getelementptr i8, ptr %object, i64 %at.type
  %own = load ptr, ptr %where
  %same = icmp eq ptr %own, %type
  %next = add i64 %i, 1
  br i1 %same, label %head, label %done
done:
  ret i64 %i
}

; MurmurHash3_x86_32 of the UTF-8 bytes of each. Returns how many were hashed.
define i64 @mlc_murmur(ptr %calls, ptr %list, i64 %n, i64 %seed, ptr %out) {
entry:
  %size = alloca i64
  %first = trunc i64 %seed to i32
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %store ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %body, label %done
body:
  %data = call ptr @bytes_of(ptr %calls, ptr %list, i64 %i, ptr %size)
  %bad = icmp eq ptr %data, null
  br i1 %bad, label %done, label %start
start:
  %bytes = load i64, ptr %size
  %words = lshr i64 %bytes, 2
  br label %word.head
word.head:
  %w = phi i64 [ 0, %start ], [ %w.next, %word ]
  %h = phi i32 [ %first, %start ], [ %h.next, %word ]
  %more.words = icmp ult i64 %w, %words
  br i1 %more.words, label %word, label %tail.head
word:
  %word.at = getelementptr i32, ptr %data, i64 %w
  %k = load i32, ptr %word.at, align 1
  %k.mixed = call i32 @mixed(i32 %k)
  %h.mixed = xor i32 %h, %k.mixed
  %h.turned = call i32 @llvm.fshl.i32(i32 %h.mixed, i32 %h.mixed, i32 13)
  %h.times = mul i32 %h.turned, 5
  %h.next = add i32 %h.times, 3864292196
  %w.next = add i64 %w, 1
  br label %word.head
tail.head: ; the bytes left, from the last one on
  %whole = shl i64 %words, 2
  br label %tail
tail:
  %b = phi i64 [ %bytes, %tail.head ], [ %b.before, %byte ]
  %t = phi i32 [ 0, %tail.head ], [ %t.next, %byte ]
  %more.bytes = icmp ugt i64 %b, %whole
  br i1 %more.bytes, label %byte, label %store
byte:
  %b.before = sub i64 %b, 1
  %byte.at = getelementptr i8, ptr %data, i64 %b.before
  %byte.value = load i8, ptr %byte.at
  %byte.wide = zext i8 %byte.value to i32
  %t.shifted = shl i32 %t, 8
  %t.next = or i32 %t.shifted, %byte.wide
  br label %tail
store:
  %t.mixed = call i32 @mixed(i32 %t)
  %f0 = xor i32 %h, %t.mixed
  %bytes.32 = trunc i64 %bytes to i32
  %f1 = xor i32 %f0, %bytes.32
  %s1 = lshr i32 %f1, 16
  %f2 = xor i32 %f1, %s1
  %f3 = mul i32 %f2, 2246822507
  %s2 = lshr i32 %f3, 13
  %f4 = xor i32 %f3, %s2
  %f5 = mul i32 %f4, 3266489909
  %s3 = lshr i32 %f5, 16
  %f6 = xor i32 %f5, %s3
  %out.at = getelementptr i32, ptr %out, i64 %i
  store i32 %f6, ptr %out.at
  %next = add i64 %i, 1
  br label %head
done:
  ret i64 %i
}

define internal i32 @mixed(i32 %k) alwaysinline {
  %a = mul i32 %k, 3432918353
  %b = call i32 @llvm.fshl.i32(i32 %a, i32 %a, i32 15)
  %c = mul i32 %b, 461845907
  ret i32 %c
}

; I64 numbers of decimal texts: a sign or none, 1 to 18 digits. Returns how many were read until one that is something else.
define i64 @mlc_read_integers(ptr %calls, ptr %list, i64 %n, ptr %out) {
entry:
  %size = alloca i64
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %store ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %body, label %done
body:
  %data = call ptr @bytes_of(ptr %calls, ptr %list, i64 %i, ptr %size)
  %bad = icmp eq ptr %data, null
  br i1 %bad, label %done, label %sign
sign: ; there is a zero behind the last byte
  %bytes = load i64, ptr %size
  %c0 = load i8, ptr %data
  %minus = icmp eq i8 %c0, 45
  %plus = icmp eq i8 %c0, 43
  %signed = or i1 %minus, %plus
  %from = zext i1 %signed to i64
  %digits = sub i64 %bytes, %from
  %least = icmp sgt i64 %digits, 0
  %most = icmp sle i64 %digits, 18
  %fits = and i1 %least, %most
  br i1 %fits, label %digit.head, label %done
digit.head:
  %d = phi i64 [ %from, %sign ], [ %d.next, %digit ]
  %value = phi i64 [ 0, %sign ], [ %value.next, %digit ]
  %left = icmp slt i64 %d, %bytes
  br i1 %left, label %digit, label %store
digit:
  %c.at = getelementptr i8, ptr %data, i64 %d
  %c = load i8, ptr %c.at
  %c.less = sub i8 %c, 48
  %is.digit = icmp ult i8 %c.less, 10
  %c.wide = zext i8 %c.less to i64
  %ten = mul i64 %value, 10
  %value.next = add i64 %ten, %c.wide
  %d.next = add i64 %d, 1
  br i1 %is.digit, label %digit.head, label %done
store:
  %negated = sub i64 0, %value
  %number = select i1 %minus, i64 %negated, i64 %value
  %out.at = getelementptr i64, ptr %out, i64 %i
  store i64 %number, ptr %out.at
  %next = add i64 %i, 1
  br label %head
done:
  ret i64 %i
}

; Items 0 to n of a list become decimal texts of I64 numbers. Returns how many did.
define i64 @mlc_print_integers(ptr %calls, ptr %numbers, i64 %n, ptr %list) {
entry:
  %text = alloca [24 x i8]
  %set.at = getelementptr %calls, ptr %calls, i64 0, i32 1
  %set = load ptr, ptr %set.at
  %make.at = getelementptr %calls, ptr %calls, i64 0, i32 4
  %make = load ptr, ptr %make.at
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %set.it ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %body, label %done
body:
  %at = getelementptr i64, ptr %numbers, i64 %i
  %number = load i64, ptr %at
  %minus = icmp slt i64 %number, 0
  %negated = sub i64 0, %number
  %magnitude = select i1 %minus, i64 %negated, i64 %number ; of the least number, without a sign
  br label %digit
digit:
  %p = phi i64 [ 24, %body ], [ %p.next, %digit ]
  %rest = phi i64 [ %magnitude, %body ], [ %rest.next, %digit ]
  %rest.next = udiv i64 %rest, 10
  %tens = mul i64 %rest.next, 10
  %d = sub i64 %rest, %tens
  %d.8 = trunc i64 %d to i8
  %c = add i8 %d.8, 48
  %p.next = sub i64 %p, 1
  %c.at = getelementptr i8, ptr %text, i64 %p.next
  store i8 %c, ptr %c.at
  %ended = icmp eq i64 %rest.next, 0
  br i1 %ended, label %sign, label %digit
sign:
  %p.minus = sub i64 %p.next, 1
  %minus.at = getelementptr i8, ptr %text, i64 %p.minus
  store i8 45, ptr %minus.at
  %start = select i1 %minus, i64 %p.minus, i64 %p.next
  %start.at = getelementptr i8, ptr %text, i64 %start
  %length = sub i64 24, %start
  %object = call ptr %make(ptr %start.at, i64 %length)
  %bad = icmp eq ptr %object, null
  br i1 %bad, label %done, label %set.it
set.it:
  %ignored = call i32 %set(ptr %list, i64 %i, ptr %object)
  %next = add i64 %i, 1
  br label %head
done:
  ret i64 %i
}

; Which texts from number i on match as a whole. Returns how many are done: the walk stopped in the next where a state's followers are not known.
define i64 @mlc_full_matches(ptr %calls, ptr %list, i64 %n, i64 %i0, ptr %walk, ptr %out) {
entry:
  %size = alloca i64
  %table = load ptr, ptr %walk
  %accepts.at = getelementptr %walk, ptr %walk, i64 0, i32 1
  %accepts = load ptr, ptr %accepts.at
  %starts.at = getelementptr %walk, ptr %walk, i64 0, i32 2
  %starts = load ptr, ptr %starts.at
  %start = load i32, ptr %starts
  %at.at = getelementptr %walk, ptr %walk, i64 0, i32 4
  %state.at = getelementptr %walk, ptr %walk, i64 0, i32 5
  %at0 = load i64, ptr %at.at
  %state0 = load i64, ptr %state.at
  %state0.32 = trunc i64 %state0 to i32
  %begun = icmp sge i64 %state0, 0
  %first = select i1 %begun, i32 %state0.32, i32 %start
  store i64 0, ptr %at.at
  store i64 -1, ptr %state.at
  br label %head
head:
  %i = phi i64 [ %i0, %entry ], [ %next, %ended ]
  %at.first = phi i64 [ %at0, %entry ], [ 0, %ended ]
  %state.first = phi i32 [ %first, %entry ], [ %start, %ended ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %body, label %done
body:
  %data = call ptr @bytes_of(ptr %calls, ptr %list, i64 %i, ptr %size)
  %bad = icmp eq ptr %data, null
  br i1 %bad, label %done, label %bytes
bytes:
  %count = load i64, ptr %size
  br label %byte.head
byte.head:
  %at = phi i64 [ %at.first, %bytes ], [ %at.next, %known ]
  %state = phi i32 [ %state.first, %bytes ], [ %to, %known ]
  %left = icmp slt i64 %at, %count
  br i1 %left, label %byte, label %ended.accepts
byte:
  %c.at = getelementptr i8, ptr %data, i64 %at
  %c = load i8, ptr %c.at
  %to.at = call ptr @follower(ptr %table, i32 %state, i8 %c)
  %to = load i32, ptr %to.at
  %at.next = add i64 %at, 1
  %alive = icmp sgt i32 %to, 0
  br i1 %alive, label %known, label %dead.or.unknown
known:
  br label %byte.head
dead.or.unknown:
  %dead = icmp eq i32 %to, 0
  br i1 %dead, label %ended, label %unknown
unknown:
  %state.64 = sext i32 %state to i64
  store i64 %at, ptr %at.at
  store i64 %state.64, ptr %state.at
  ret i64 %i
ended.accepts:
  %accept.at = getelementptr i8, ptr %accepts, i32 %state
  %accept = load i8, ptr %accept.at
  %at.end = and i8 %accept, 1
  br label %ended
ended:
  %matches = phi i8 [ 0, %dead.or.unknown ], [ %at.end, %ended.accepts ]
  %out.at = getelementptr i8, ptr %out, i64 %i
  store i8 %matches, ptr %out.at
  %next = add i64 %i, 1
  br label %head
done:
  ret i64 %i
}

define internal ptr @follower(ptr %table, i32 %state, i8 %c) alwaysinline {
  %row = zext i32 %state to i64
  %row.at = shl i64 %row, 8
  %c.wide = zext i8 %c to i64
  %entry = or i64 %row.at, %c.wide
  %at = getelementptr i32, ptr %table, i64 %entry
  ret ptr %at
}

; The leftmost longest matches in texts from number i0 on, or what is between them, go to the end of a list, and how many there are up to the end of each text to %ends. Matches of nothing separate as the character behind them does.
; Returns how many texts are done, as mlc_full_matches does.
define i64 @mlc_tokens(ptr %calls, ptr %list, i64 %n, i64 %i0, ptr %walk, ptr %found, ptr %ends) {
entry:
  %size.at = alloca i64
  %i.at = alloca i64
  %least.at = getelementptr %walk, ptr %walk, i64 0, i32 10
  %least = load i64, ptr %least.at
  %gaps.at = getelementptr %walk, ptr %walk, i64 0, i32 11
  %gaps = load i64, ptr %gaps.at
  %table = load ptr, ptr %walk
  %accepts.at = getelementptr %walk, ptr %walk, i64 0, i32 1
  %accepts = load ptr, ptr %accepts.at
  %starts.at = getelementptr %walk, ptr %walk, i64 0, i32 2
  %starts = load ptr, ptr %starts.at
  %kinds.at = getelementptr %walk, ptr %walk, i64 0, i32 3
  %kinds = load ptr, ptr %kinds.at
  %at.at = getelementptr %walk, ptr %walk, i64 0, i32 4
  %state.at = getelementptr %walk, ptr %walk, i64 0, i32 5
  %start.at = getelementptr %walk, ptr %walk, i64 0, i32 6
  %longest.at = getelementptr %walk, ptr %walk, i64 0, i32 7
  %before.at = getelementptr %walk, ptr %walk, i64 0, i32 8
  %count.at = getelementptr %walk, ptr %walk, i64 0, i32 9
  %between = icmp ne i64 %gaps, 0
  store i64 %i0, ptr %i.at
  br label %text
text:
  %i = load i64, ptr %i.at
  %more = icmp slt i64 %i, %n
  br i1 %more, label %open, label %finished
finished:
  store i64 0, ptr %count.at
  ret i64 %i
open:
  %data = call ptr @bytes_of(ptr %calls, ptr %list, i64 %i, ptr %size.at)
  %bad = icmp eq ptr %data, null
  br i1 %bad, label %failed, label %opened
opened:
  %size = load i64, ptr %size.at
  %state.given = load i64, ptr %state.at
  %resumed = icmp sge i64 %state.given, 0
  br i1 %resumed, label %resume, label %first
resume:
  %start.given = load i64, ptr %start.at
  %before.given = load i64, ptr %before.at
  %at.given = load i64, ptr %at.at
  %longest.given = load i64, ptr %longest.at
  store i64 -1, ptr %state.at
  br label %scan
first:
  br label %begin
begin: ; a match, from %start on
  %start.new = phi i64 [ 0, %first ], [ %start.next, %skipped ], [ %longest, %matched ]
  %before.new = phi i64 [ 0, %first ], [ %before.next, %skipped ], [ %longest, %matched ]
  %initial = icmp eq i64 %start.new, 0
  br i1 %initial, label %begun, label %look.back
look.back:
  %last.place = sub i64 %start.new, 1
  %last.at = getelementptr i8, ptr %data, i64 %last.place
  %last.byte = load i8, ptr %last.at
  %last.wide = zext i8 %last.byte to i64
  %last.entry = getelementptr i8, ptr %kinds, i64 %last.wide
  %last.kind = load i8, ptr %last.entry
  br label %begun
begun:
  %kind.before = phi i8 [ 0, %begin ], [ %last.kind, %look.back ]
  %kind.before.wide = zext i8 %kind.before to i64
  %begin.at = getelementptr i32, ptr %starts, i64 %kind.before.wide
  %begin.32 = load i32, ptr %begin.at
  %begin.64 = sext i32 %begin.32 to i64
  br label %scan
scan:
  %start = phi i64 [ %start.given, %resume ], [ %start.new, %begun ], [ %start, %onward ]
  %before = phi i64 [ %before.given, %resume ], [ %before.new, %begun ], [ %before, %onward ]
  %at = phi i64 [ %at.given, %resume ], [ %start.new, %begun ], [ %at.next, %onward ]
  %state = phi i64 [ %state.given, %resume ], [ %begin.64, %begun ], [ %to.64, %onward ]
  %longest.before = phi i64 [ %longest.given, %resume ], [ -1, %begun ], [ %longest, %onward ]
  %ended = icmp eq i64 %at, %size
  %c.at = getelementptr i8, ptr %data, i64 %at ; there is a zero behind the last byte
  %c = load i8, ptr %c.at
  %c.wide = zext i8 %c to i64
  %kind.at = getelementptr i8, ptr %kinds, i64 %c.wide
  %kind.byte = load i8, ptr %kind.at
  %kind = select i1 %ended, i8 0, i8 %kind.byte
  %accept.at = getelementptr i8, ptr %accepts, i64 %state
  %accept = load i8, ptr %accept.at
  %accept.shifted = lshr i8 %accept, %kind
  %accepted = trunc i8 %accept.shifted to i1
  %longest = select i1 %accepted, i64 %at, i64 %longest.before
  br i1 %ended, label %over, label %step
step:
  %state.32 = trunc i64 %state to i32
  %to.at = call ptr @follower(ptr %table, i32 %state.32, i8 %c)
  %to = load i32, ptr %to.at
  %to.64 = sext i32 %to to i64
  %at.next = add i64 %at, 1
  %alive = icmp sgt i32 %to, 0
  br i1 %alive, label %onward, label %stopped
onward:
  br label %scan
stopped:
  %dead = icmp eq i32 %to, 0
  br i1 %dead, label %over, label %unknown
unknown:
  store i64 %at, ptr %at.at
  store i64 %state, ptr %state.at
  store i64 %start, ptr %start.at
  store i64 %longest.before, ptr %longest.at
  store i64 %before, ptr %before.at
  ret i64 %i
over:
  %some = icmp sgt i64 %longest, %start
  br i1 %some, label %match, label %nothing
match:
  %from = select i1 %between, i64 %before, i64 %start
  %until = select i1 %between, i64 %start, i64 %longest
  %kept = call i1 @emit(ptr %calls, ptr %walk, ptr %data, i64 %from, i64 %until, i64 %least, ptr %found, ptr %count.at)
  br i1 %kept, label %matched, label %failed
matched:
  br label %begin
nothing:
  %empty = icmp eq i64 %longest, %start
  %separates = and i1 %empty, %between
  %at.end = icmp eq i64 %start, %size
  br i1 %at.end, label %last, label %separate
separate:
  br i1 %separates, label %cut, label %skip
cut:
  %kept.cut = call i1 @emit(ptr %calls, ptr %walk, ptr %data, i64 %before, i64 %start, i64 %least, ptr %found, ptr %count.at)
  br i1 %kept.cut, label %skip, label %failed
skip:
  %start.1 = add i64 %start, 1
  br label %skip.head
skip.head: ; to the next character
  %start.next = phi i64 [ %start.1, %skip ], [ %start.more, %skip.more ]
  %next.at = getelementptr i8, ptr %data, i64 %start.next
  %next.byte = load i8, ptr %next.at
  %next.top = and i8 %next.byte, 192
  %continued = icmp eq i8 %next.top, 128
  br i1 %continued, label %skip.more, label %skipped
skip.more:
  %start.more = add i64 %start.next, 1
  br label %skip.head
skipped:
  %before.next = select i1 %separates, i64 %start.next, i64 %before
  br label %begin
last:
  br i1 %between, label %rest, label %close
rest:
  %kept.rest = call i1 @emit(ptr %calls, ptr %walk, ptr %data, i64 %before, i64 %size, i64 %least, ptr %found, ptr %count.at)
  br i1 %kept.rest, label %close, label %failed
close:
  %count = load i64, ptr %count.at
  %end.at = getelementptr i64, ptr %ends, i64 %i
  store i64 %count, ptr %end.at
  %i.next = add i64 %i, 1
  store i64 %i.next, ptr %i.at
  br label %text
failed:
  ret i64 %i
}

; Bytes of a text go to the end of a list, or their number to that of numbers, if they are enough characters. Whether Python could.
define internal i1 @emit(ptr %calls, ptr %walk, ptr %data, i64 %from, i64 %until, i64 %least, ptr %found, ptr %count.at) {
entry:
  br label %head
head:
  %at = phi i64 [ %from, %entry ], [ %at.next, %body ]
  %characters = phi i64 [ 0, %entry ], [ %characters.next, %body ]
  %enough = icmp sge i64 %characters, %least
  %left = icmp slt i64 %at, %until
  %counting = xor i1 %enough, true
  %more = and i1 %counting, %left
  br i1 %more, label %body, label %counted
body:
  %c.at = getelementptr i8, ptr %data, i64 %at
  %c = load i8, ptr %c.at
  %top = and i8 %c, 192
  %starts = icmp ne i8 %top, 128
  %one = zext i1 %starts to i64
  %characters.next = add i64 %characters, %one
  %at.next = add i64 %at, 1
  br label %head
counted:
  br i1 %enough, label %make.it, label %fine
make.it:
  %from.at = getelementptr i8, ptr %data, i64 %from
  %length = sub i64 %until, %from
  %words.at = getelementptr %walk, ptr %walk, i64 0, i32 12
  %words = load ptr, ptr %words.at
  %numbered = icmp ne ptr %words, null
  br i1 %numbered, label %number.it, label %text.it
number.it:
  %number = call i32 @number(ptr %words, ptr %from.at, i64 %length)
  %numbers.at = getelementptr %words, ptr %words, i64 0, i32 5
  %numbers = load ptr, ptr %numbers.at
  %count.before = load i64, ptr %count.at
  %number.at = getelementptr i32, ptr %numbers, i64 %count.before
  store i32 %number, ptr %number.at
  %count.after = add i64 %count.before, 1
  store i64 %count.after, ptr %count.at
  ret i1 true
text.it:
  %append.at = getelementptr %calls, ptr %calls, i64 0, i32 2
  %append = load ptr, ptr %append.at
  %make.at = getelementptr %calls, ptr %calls, i64 0, i32 4
  %make = load ptr, ptr %make.at
  %drop.at = getelementptr %calls, ptr %calls, i64 0, i32 5
  %drop = load ptr, ptr %drop.at
  %object = call ptr %make(ptr %from.at, i64 %length)
  %bad = icmp eq ptr %object, null
  br i1 %bad, label %no, label %append.it
append.it:
  %failure = call i32 %append(ptr %found, ptr %object)
  call void %drop(ptr %object)
  %count = load i64, ptr %count.at
  %count.next = add i64 %count, 1
  store i64 %count.next, ptr %count.at
  %done = icmp eq i32 %failure, 0
  ret i1 %done
fine:
  ret i1 true
no:
  ret i1 false
}

; FNV-1a, by Fowler, Noll and Vo.
define internal i64 @hashed(ptr %data, i64 %size) {
entry:
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %body ]
  %h = phi i64 [ -3750763034362895579, %entry ], [ %h.next, %body ]
  %more = icmp slt i64 %i, %size
  br i1 %more, label %body, label %done
body:
  %c.at = getelementptr i8, ptr %data, i64 %i
  %c = load i8, ptr %c.at
  %c.wide = zext i8 %c to i64
  %mixed = xor i64 %h, %c.wide
  %h.next = mul i64 %mixed, 1099511628211
  %next = add i64 %i, 1
  br label %head
done:
  ret i64 %h
}

; Hashes of the UTF-8 bytes of each. Returns how many there are.
define i64 @mlc_hash_words(ptr %calls, ptr %list, i64 %n, ptr %out) {
entry:
  %size.at = alloca i64
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %hash ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %body, label %done
body:
  %data = call ptr @bytes_of(ptr %calls, ptr %list, i64 %i, ptr %size.at)
  %bad = icmp eq ptr %data, null
  br i1 %bad, label %done, label %hash
hash:
  %size = load i64, ptr %size.at
  %h = call i64 @hashed(ptr %data, i64 %size)
  %out.at = getelementptr i64, ptr %out, i64 %i
  store i64 %h, ptr %out.at
  %next = add i64 %i, 1
  br label %head
done:
  ret i64 %i
}

; Of a word, or −1.
define internal i32 @number(ptr %words, ptr %data, i64 %size) {
entry:
  %slots = load ptr, ptr %words
  %mask.at = getelementptr %words, ptr %words, i64 0, i32 1
  %mask = load i64, ptr %mask.at
  %hashes.at = getelementptr %words, ptr %words, i64 0, i32 2
  %hashes = load ptr, ptr %hashes.at
  %begins.at = getelementptr %words, ptr %words, i64 0, i32 3
  %begins = load ptr, ptr %begins.at
  %bytes.at = getelementptr %words, ptr %words, i64 0, i32 4
  %bytes = load ptr, ptr %bytes.at
  %h = call i64 @hashed(ptr %data, i64 %size)
  %upper = lshr i64 %h, 32
  %folded = xor i64 %h, %upper
  br label %probe
probe:
  %at = phi i64 [ %folded, %entry ], [ %at.next, %other ]
  %slot = and i64 %at, %mask
  %slot.at = getelementptr i32, ptr %slots, i64 %slot
  %number = load i32, ptr %slot.at
  %none = icmp slt i32 %number, 0
  br i1 %none, label %done, label %compare
compare:
  %wide = zext i32 %number to i64
  %hash.at = getelementptr i64, ptr %hashes, i64 %wide
  %hash = load i64, ptr %hash.at
  %begin.at = getelementptr i64, ptr %begins, i64 %wide
  %begin = load i64, ptr %begin.at
  %end.at = getelementptr i64, ptr %begin.at, i64 1
  %end = load i64, ptr %end.at
  %length = sub i64 %end, %begin
  %same.hash = icmp eq i64 %hash, %h
  %same.size = icmp eq i64 %length, %size
  %alike = and i1 %same.hash, %same.size
  br i1 %alike, label %byte.head, label %other
byte.head:
  %i = phi i64 [ 0, %compare ], [ %i.next, %byte ]
  %left = icmp slt i64 %i, %size
  br i1 %left, label %byte, label %done
byte:
  %ours.place = add i64 %begin, %i
  %ours.at = getelementptr i8, ptr %bytes, i64 %ours.place
  %ours = load i8, ptr %ours.at
  %theirs.at = getelementptr i8, ptr %data, i64 %i
  %theirs = load i8, ptr %theirs.at
  %i.next = add i64 %i, 1
  %equal = icmp eq i8 %ours, %theirs
  br i1 %equal, label %byte.head, label %other
other:
  %at.next = add i64 %slot, 1
  br label %probe
done:
  ret i32 %number
}
