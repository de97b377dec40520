// Until ../shim is merged.
// Minimal "CUDA on CPU" for arithmetic tests: one fiber per CUDA thread (hand-rolled x86-64 switch, no syscalls),
// __syncthreads / __syncwarp / __shfl / mma.sync / cp.async emulated. Not for speed, not for race detection.
#pragma once
#include <cstdint>
#include <cstring>
#include <cmath>
#include <vector>
#include <functional>
#include <cstdlib>
#include <cstdio>
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__ static            /* one block runs at a time */
#define CUDA_ON_CPU 1
struct dim3c{unsigned x,y,z;};
extern "C" void cpucuda_switch(void** from,void* to); // saves callee-saved regs, swaps rsp
__asm__(R"(
.text
.globl cpucuda_switch
.weak cpucuda_switch
cpucuda_switch:
 pushq %rbp
 pushq %rbx
 pushq %r12
 pushq %r13
 pushq %r14
 pushq %r15
 movq %rsp,(%rdi)
 movq %rsi,%rsp
 popq %r15
 popq %r14
 popq %r13
 popq %r12
 popq %rbx
 popq %rbp
 ret
)");
namespace cpucuda{
 struct Fiber{void* c; std::vector<char> stk; bool done; dim3c tid; unsigned lane,warp;};
 inline void* main_c; inline std::vector<Fiber> F; inline unsigned cur;
 inline dim3c bIdx,bDim,gDim; inline std::vector<char> dyn; inline std::function<void()> body;
 inline unsigned bar_arr; inline unsigned long bar_gen;
 struct Warp{unsigned arr=0; unsigned long gen=0; unsigned live=32; uint32_t slot[32][16];};
 inline std::vector<Warp> W;
 inline void yield_(){ unsigned me=cur; unsigned n=F.size(); for(unsigned k=1;k<=n;k++){unsigned j=(me+k)%n; if(!F[j].done){ if(j==me) {return;} cur=j; cpucuda_switch(&F[me].c,F[j].c); return;} } }
 inline unsigned live_threads; inline unsigned long spin;
 inline void guard(){ if(++spin>200000000ul){fprintf(stderr,"cpucuda: deadlock (divergent barrier?)\n");abort();} }
 inline void block_bar(){ unsigned long g=bar_gen; if(++bar_arr>=live_threads){bar_arr=0;bar_gen++;} while(bar_gen==g){guard();yield_();} }
 inline void warp_bar(){ Warp&w=W[F[cur].warp]; unsigned long g=w.gen; if(++w.arr>=w.live){w.arr=0;w.gen++;} while(w.gen==g){guard();yield_();} }
 inline void tramp(){ body(); Fiber&f=F[cur]; f.done=true; live_threads--; Warp&w=W[f.warp]; w.live--;
   if(w.live && w.arr>=w.live){w.arr=0;w.gen++;} if(live_threads && bar_arr>=live_threads){bar_arr=0;bar_gen++;}
   unsigned n=F.size(); for(unsigned k=1;k<n;k++){unsigned j=(cur+k)%n; if(!F[j].done){cur=j; cpucuda_switch(&f.c,F[j].c);} } cpucuda_switch(&f.c,main_c); }
 template<class Fn> void launch(dim3c g,dim3c b,size_t dynb,Fn fn){
   gDim=g;bDim=b; unsigned n=b.x*b.y*b.z; body=fn; dyn.assign(dynb+256,0);
   for(unsigned z=0;z<g.z;z++)for(unsigned y=0;y<g.y;y++)for(unsigned x=0;x<g.x;x++){ bIdx={x,y,z};
     memset(dyn.data(),0xff,dyn.size()); // poison: NaN if read before write
     if(F.size()!=n){F.clear();F.resize(n);} W.assign((n+31)/32,Warp{}); live_threads=n;bar_arr=0;spin=0;
     for(unsigned i=0;i<n;i++){Fiber&f=F[i]; if(f.stk.empty()) f.stk.resize(64*1024); f.done=false; f.lane=i&31;f.warp=i>>5; f.tid={i%b.x,(i/b.x)%b.y,i/(b.x*b.y)};
       uintptr_t sp=((uintptr_t)f.stk.data()+f.stk.size())&~63ul; void** p=(void**)sp; *--p=nullptr; *--p=(void*)tramp; for(int r=0;r<6;r++)*--p=nullptr; f.c=p;}
     for(unsigned w=0;w<W.size();w++) W[w].live = (w+1)*32<=n?32:n-w*32;
     cur=0; cpucuda_switch(&main_c,F[0].c); } }
 template<class T> T shfl(T v,unsigned src){ static_assert(sizeof(T)<=8); Fiber&f=F[cur]; Warp&w=W[f.warp]; memcpy(w.slot[f.lane],&v,sizeof(T)); warp_bar(); T r; memcpy(&r,w.slot[src&31],sizeof(T)); warp_bar(); return r; }
}
#define threadIdx (cpucuda::F[cpucuda::cur].tid)
#define blockIdx  (cpucuda::bIdx)
#define blockDim  (cpucuda::bDim)
#define gridDim   (cpucuda::gDim)
#define __syncthreads() cpucuda::block_bar()
#define __syncwarp(...) cpucuda::warp_bar()
#define DYN_SMEM(T,name) T* name=(T*)(((uintptr_t)cpucuda::dyn.data()+127)&~127ul)
template<class T> T __shfl_xor_sync(unsigned,T v,int m){ return cpucuda::shfl(v,cpucuda::F[cpucuda::cur].lane^m); }
template<class T> T __shfl_sync(unsigned,T v,int s){ return cpucuda::shfl(v,s); }
template<class T> T __shfl_down_sync(unsigned,T v,int d){ unsigned l=cpucuda::F[cpucuda::cur].lane; return cpucuda::shfl(v,l+d<32?l+d:l); }
inline float rsqrtf(float x){return 1.0f/sqrtf(x);} 
inline float __expf(float x){return expf(x);} 
inline float exp2f_(float x){return exp2f(x);} 
// bf16, round to nearest even like the hardware
struct __nv_bfloat16{uint16_t v;};
inline float __bfloat162float(__nv_bfloat16 b){uint32_t u=(uint32_t)b.v<<16;float f;memcpy(&f,&u,4);return f;}
inline __nv_bfloat16 __float2bfloat16(float f){uint32_t u;memcpy(&u,&f,4); if((u&0x7fffffff)>0x7f800000) return {0x7fff}; return {(uint16_t)((u+0x7fff+((u>>16)&1))>>16)};}
// warp-collective mma.m16n8k16 row.col f32 += bf16*bf16, PTX fragment layout
inline void mma16816(float d[4],const uint32_t a[4],const uint32_t b[2]){
  using namespace cpucuda; Fiber&f=F[cur]; Warp&w=W[f.warp]; memcpy(w.slot[f.lane],a,16); memcpy(w.slot[f.lane]+4,b,8); memcpy(w.slot[f.lane]+6,d,16); warp_bar();
  auto bf=[&](uint32_t x,int h){uint32_t u=(h?x&0xffff0000u:x<<16);float r;memcpy(&r,&u,4);return r;};
  auto A=[&](int r,int k){int lane=(r&7)*4+((k&7)>>1);int reg=(r>>3)+((k>>3)<<1);return bf(w.slot[lane][reg],k&1);};
  auto B=[&](int k,int n){int lane=n*4+((k&7)>>1);int reg=k>>3;return bf(w.slot[lane][4+reg],k&1);};
  int g=f.lane>>2,t=f.lane&3; float o[4]; for(int i=0;i<4;i++){int r=g+(i>>1)*8,c=t*2+(i&1); double s=0; for(int k=0;k<16;k++) s+=(double)A(r,k)*B(k,c); float dd; memcpy(&dd,&w.slot[f.lane][6+i],4); o[i]=(float)(s+dd);} 
  warp_bar(); for(int i=0;i<4;i++) d[i]=o[i]; }
#define DYNAMIC_SHARED DYN_SMEM
